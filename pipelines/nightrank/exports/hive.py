"""Published generations as a Hive-partitioned folder: one partition per day, of copied files.

```
<target>/ranked/run_date=2026-01-31/part-00000.parquet
<target>/queries/run_date=2026-01-31/part-00000.parquet
<target>/_exports/run_date=2026-01-31/claim.json      which generation; created first
<target>/_exports/run_date=2026-01-31/_SUCCESS        the same bytes; created last
```

A day's partition holds the last generation published on it (UTC), as `--generation DAY` reads it.
The date is in the path only: pyarrow and pandas refuse a folder whose files have it too, and the
bytes of a run would depend on its day. Files are copies, so that `gc` does not delete them.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from nightrank.errors import NightrankError
from nightrank.generations.results import expired, generation_of
from nightrank.storage.dataset import FileRef
from nightrank.storage.expiry import delete
from nightrank.storage.log import Entry, Log
from nightrank.storage.reader import Reader
from nightrank.storage.store import Store

TABLES = ("ranked", "queries")
PARTITION = "run_date"
CLAIM, DONE = "claim.json", "_SUCCESS"


@dataclass(frozen=True)
class Outcome:
    """The result of an export.

    Attributes:
        written: generation by day (YYYY-MM-DD), of the partitions that were written or completed.
        present: days that the folder had already.
        expired: days that the folder lacks and whose generation `gc` has deleted.
    """

    written: dict[str, int]
    present: list[str]
    expired: list[str]


def export_hive(
    store: Store,
    target: Store,
    name: str,
    generation: int | str | None = None,
    replace: bool = False,
) -> Outcome:
    """Adds the days of the log that a folder lacks.

    Args:
        store: the lake.
        target: the folder, local or s3://, outside the lake.
        name: of the experiment; a folder holds one.
        generation: only this one, by number or day; every day of the log by default.
        replace: rewrite partitions that hold another generation of their day. Readers then see a
            partition without files for a moment, never two generations.

    Returns:
        The days written, present and expired.

    Raises:
        NightrankError: E_USAGE for a target in the lake; E_EMPTY where nothing is published;
            E_CONFLICT where the folder holds another experiment, or a day another generation;
            E_SCHEMA where a day's rows have a column `run_date` (after all other days are
            exported); E_STORE_UNFIT; E_CORRUPT for damaged files.
    """
    _refuse_nested(store, target)
    newest = generation_of(store, generation)
    log = Log(store, "results")
    entries = [newest] if generation is not None else log.published()
    days = {entry.body["time"][:10]: entry for entry in entries}  # The last one of each day.
    condemned = log.condemned()
    written: dict[str, int] = {}
    present: list[str] = []
    deleted: list[str] = []
    refused: list[NightrankError] = []
    for day, entry in sorted(days.items()):
        claim = _claim(entry, name)
        if _read(target, day, DONE) == claim:
            present.append(day)
        elif expired(store, entry, condemned):
            deleted.append(day)
        else:
            if not written:
                target.probe()
                _refuse_other_experiment(target, name)
            try:
                _write(store, target, entry, day, claim, replace)
                written[day] = entry.generation
            except NightrankError as error:
                if error.code not in ("E_CONFLICT", "E_SCHEMA"):
                    raise
                refused.append(error)
    if refused:
        raise refused[0]
    return Outcome(written, present, deleted)


def _write(
    store: Store, target: Store, entry: Entry, day: str, claim: bytes, replace: bool
) -> None:
    """Claims the day, copies its files, checks that there are no others, and commits."""
    read = Reader(store)
    _refuse_partition_column(read, entry)
    if replace:
        _clear(target, day)
    if not target.put_if_absent(_key(day, CLAIM), claim):
        other = orjson.loads(_read(target, day, CLAIM) or b"{}").get("generation", "another")
        what = f"expected generation {entry.generation}, found {other}"
        raise NightrankError("E_CONFLICT", what, target.path(_key(day, CLAIM)), "add --replace")
    for table in TABLES:
        folder, sizes = f"{table}/run_date={day}", {}
        for number, file in enumerate(entry.body["files"][table]):
            part = f"part-{number:05d}.parquet"
            # A whole file in memory: it is one query shard, some 2 MB at five million queries, and
            # only a write in one piece is atomic.
            data = read.buffer(FileRef(**file)).to_pybytes()
            if not target.put_if_absent(f"{folder}/{part}", data):
                what = f"expected the bytes of generation {entry.generation}, found others"
                where = target.path(f"{folder}/{part}")
                raise NightrankError("E_CONFLICT", what, where, "add --replace")
            sizes[part] = len(data)
        if (listed := target.files(folder)) != sizes:
            what = f"expected {len(sizes)} file(s), found {len(listed)}, others among them"
            raise NightrankError("E_CONFLICT", what, target.path(folder), "add --replace")
    target.put_if_absent(_key(day, DONE), claim)


def _refuse_partition_column(read: Reader, entry: Entry) -> None:
    """Refuses rows with a column of the partition's name, which earlier versions could publish."""
    for table in TABLES:
        for file in entry.body["files"][table][:1]:  # All files of a table have one schema.
            names = pq.read_schema(pa.BufferReader(read.buffer(FileRef(**file)))).names
            if taken := [name for name in names if name.casefold() == PARTITION]:
                what = f"generation {entry.generation} has a column {taken[0]!r}"
                what += ", the name of the partition column"
                do = "export later generations, published without that attribute"
                raise NightrankError("E_SCHEMA", what, table, do)


def _clear(target: Store, day: str) -> None:
    """Empties a day in three steps: it is incomplete, it has no files, it is not claimed."""
    marks = target.files(_key(day, "").rstrip("/"))
    folders = [f"{table}/run_date={day}" for table in TABLES]
    files = [f"{folder}/{name}" for folder in folders for name in target.files(folder)]
    done, claim = ([_key(day, mark)] if mark in marks else [] for mark in (DONE, CLAIM))
    for keys in (done, files, claim):
        if keys:
            delete(target, keys)


def _claim(entry: Entry, name: str) -> bytes:
    """The identity of a partition's generation; the same bytes for every writer at any time."""
    body = entry.body
    files = {
        table: [{key: file[key] for key in ("size", "sha256", "rows")} for file in files]
        for table, files in body["files"].items()
        if table in TABLES
    }
    plain = {
        "experiment": name,
        "generation": entry.generation,
        "plan_id": body["plan_id"],
        "time": body["time"],
        "write_id": body["write_id"],
        "files": files,
    }
    return orjson.dumps(plain, option=orjson.OPT_INDENT_2)


def _key(day: str, name: str) -> str:
    return f"_exports/run_date={day}/{name}"


def _read(target: Store, day: str, name: str) -> bytes | None:
    try:
        return target.read(_key(day, name))
    except FileNotFoundError:
        return None


def _refuse_other_experiment(target: Store, name: str) -> None:
    key = "_exports/experiment"
    if not target.put_if_absent(key, name.encode()):
        what = f"expected experiment {name!r}, found {target.read(key).decode()!r}"
        do = "give every experiment a folder of its own"
        raise NightrankError("E_CONFLICT", what, target.path(key), do)


def _refuse_nested(store: Store, target: Store) -> None:
    """Refuses a folder within the experiment, which `gc` cleans, and the root that holds it."""
    experiment, folder = store.place[1], target.place[1]
    within = f"{folder}/".startswith(f"{experiment}/") or folder == posixpath.dirname(experiment)
    if target.remote == store.remote and within:
        what = "expected a folder outside the lake, found one in it"
        do = "choose a folder of its own for the export"
        raise NightrankError("E_USAGE", what, target.url, do)
