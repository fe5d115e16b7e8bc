"""Datasets: a folder of shards, a completion record per shard, and a manifest.

`<path>/_data/<shard>.<file>-<unique>.<ext>` holds data and means nothing by itself.
`<path>/_done/<shard>.a<N>.json` is the record that makes a shard count: created if absent, first
writer wins; a bad one is superseded by `.a<N+1>`. `<path>/manifest.json` comes last and holds all
records; its existence is completion. Nothing is ever deleted or overwritten here.
"""

from __future__ import annotations

import platform
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa

from nightrank.errors import NightrankError
from nightrank.storage.parquet import Batches, footer_of, write_parquet
from nightrank.storage.ranges import Range, Ranges
from nightrank.storage.scatter import Scatter, write_scatter
from nightrank.storage.sealed import seal, unseal
from nightrank.storage.store import Store

RECORD_NAME = re.compile(r"(.+)\.a([0-9]+)\.json")
REPAIR = "move the file away and run the same command again; what it told of is made anew"


@dataclass(frozen=True)
class Blob:
    """A file that is not a table.

    Attributes:
        write: writes it to the file object it is given.
        check: given the local path of the finished file before it counts; raises where it is not
            what was meant.
        extension: of the file's name, for people.
    """

    write: Callable[[BinaryIO], object]
    check: Callable[[str], None] | None = None
    extension: str = "bin"


Content: TypeAlias = "pa.Table | Batches | Scatter | Blob"


@dataclass
class Payload:
    """What a worker hands back for one task.

    Attributes:
        files: name to content, written in this order; a callable is asked for its content when its
            turn comes, so that a later file can depend on what streaming an earlier one has seen.
        stats: counts and facts for the record; read after all files are written.
        inputs: how many inputs the task has for a model, those that were left out included.
    """

    files: dict[str, Content | Callable[[], Content]]
    stats: dict[str, Any] = field(default_factory=dict)
    inputs: int = 0


@dataclass(frozen=True)
class FileRef:
    """One committed file.

    Attributes:
        key: in the lake.
        size: bytes.
        sha256: hex, of all of it.
        rows: 0 where it is no table.
        ranges: offset table of a scatter file.
        footer: xxh3-64 (hex) of a Parquet file's footer, for who reads a part of the file only.
    """

    key: str
    size: int
    sha256: str
    rows: int
    ranges: Ranges = Ranges()
    footer: str = ""

    def range(self, key: int) -> Range | None:
        """The range of a scatter key, or None where it has no rows."""
        return next(iter(self.ranges.between(key, key + 1)), None)


@dataclass(frozen=True)
class Record:
    """The proof that one shard is committed, and where and in what time it was made."""

    shard: str
    attempt: int
    files: dict[str, FileRef]
    stats: dict[str, Any]
    seconds: float
    node: str = ""

    def to_json(self) -> bytes:
        """The sealed bytes of the record."""
        return seal(_plain(self))


@dataclass(frozen=True)
class Manifest:
    """A finished dataset: what it is, what it was made of, and every shard in task order."""

    path: str
    stage: str
    version: int
    identity: dict[str, Any]
    shards: tuple[Record, ...]

    def files(self, name: str) -> list[FileRef]:
        """The file called `name` of every shard, in order."""
        return [shard.files[name] for shard in self.shards]

    def rows(self, name: str) -> int:
        """Total rows of the file called `name`."""
        return sum(ref.rows for ref in self.files(name))

    def total(self, stat: str) -> int:
        """Sum of a count over all shards."""
        return sum(int(shard.stats.get(stat, 0)) for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Total bytes of data files."""
        return sum(ref.size for shard in self.shards for ref in shard.files.values())


class Dataset:
    """One dataset's folder in a store."""

    def __init__(self, store: Store, path: str) -> None:
        self.store, self.path = store, path

    def manifest(self) -> Manifest | None:
        """The manifest, or None while the dataset is unfinished."""
        key = f"{self.path}/manifest.json"
        try:
            data = self.store.read(key)
        except FileNotFoundError:
            return None
        plain = unseal(data, self.store.path(key), REPAIR)
        shards = tuple(_record(shard) for shard in plain["shards"])
        return Manifest(self.path, plain["stage"], plain["version"], plain["identity"], shards)

    def records(self) -> dict[str, Record]:
        """Committed shards by name, the newest attempt of each.

        A record that is damaged, or whose data file is missing or has another size, does not count:
        its shard is made again under the next attempt number (see `next_attempts`).
        """
        newest = self._newest()
        with ThreadPoolExecutor(16) as pool:
            found = dict(zip(newest, pool.map(self._read, newest.items()), strict=True))
        sizes = self.store.files(f"{self.path}/_data")
        return {
            name: record
            for name, record in found.items()
            if record is not None
            and all(sizes.get(f.key.rsplit("/", 1)[-1]) == f.size for f in record.files.values())
        }

    def next_attempts(self) -> dict[str, int]:
        """For every shard that has a record, good or bad, the attempt number a new one takes."""
        return {name: attempt + 1 for name, attempt in self._newest().items()}

    def _newest(self) -> dict[str, int]:
        """Newest attempt of every shard, by the names of the records."""
        newest: dict[str, int] = {}
        for name in self.store.files(f"{self.path}/_done"):
            if named := RECORD_NAME.fullmatch(name):
                newest[named[1]] = max(newest.get(named[1], -1), int(named[2]))
        return newest

    def _read(self, named: tuple[str, int]) -> Record | None:
        """The record of a shard and attempt; None for one that is damaged."""
        shard, attempt = named
        key = f"{self.path}/_done/{shard}.a{attempt}.json"
        try:
            record = _record(unseal(self.store.read(key), self.store.path(key), REPAIR))
        except NightrankError as error:
            if error.code != "E_CORRUPT":
                raise
            return None
        # A record under another's name is of no use either.
        return record if (record.shard, record.attempt) == named else None

    def commit(
        self, shard: str, attempt: int, payload: Payload, seconds: Callable[[], float]
    ) -> Record:
        """Writes a payload's files and then its record; the first record of an attempt wins.

        Args:
            shard: the shard's name, made by this program.
            attempt: attempt number of the record; greater than 0 only to supersede a bad record.
            payload: what the worker made.
            seconds: asked once, after the data are written, for the seconds this unit took.

        Returns:
            The record that counts: ours, or the rival's that came first.
        """
        files = {}
        for name, content in payload.files.items():
            made = content() if callable(content) else content
            files[name] = self._write(f"{shard}.{name}", made)
        took, node = round(seconds(), 3), platform.node()
        record = Record(shard, attempt, files, payload.stats, took, node)
        key = f"{self.path}/_done/{shard}.a{attempt}.json"
        data = record.to_json()
        if self.store.put_if_absent(key, data):
            return record
        return _record(unseal(self.store.read(key), self.store.path(key), REPAIR))

    def _write(self, name: str, content: Content) -> FileRef:
        unique = uuid.uuid4().hex[:12]
        extension = "scatter" if isinstance(content, Scatter) else "parquet"
        if isinstance(content, Blob):
            extension = content.extension
        key = f"{self.path}/_data/{name}-{unique}.{extension}"
        rows, ranges, footer = 0, Ranges(), ""
        if isinstance(content, Blob):
            size, sha256 = self.store.write(key, content.write, content.check)
        elif isinstance(content, Scatter):
            scatter, made = content, list[Ranges]()
            size, sha256 = self.store.write(key, lambda f: made.append(write_scatter(scatter, f)))
            ranges, rows = made[0], scatter.table.num_rows
        else:
            if isinstance(content, pa.Table):
                content = Batches(content.schema, [content])
            counted: list[int] = []
            footers: list[str] = []
            size, sha256 = self.store.write(
                key,
                lambda f: counted.append(write_parquet(content, f)),
                lambda path: footers.append(footer_of(path)),
            )
            rows, footer = counted[0], footers[0]
        return FileRef(key, size, sha256, rows, ranges, footer)

    def finish(
        self, stage: str, version: int, identity: dict[str, Any], records: Iterable[Record]
    ) -> Manifest:
        """Writes the manifest; a twin that came first wrote the same."""
        shards = tuple(records)
        plain = {
            "stage": stage,
            "version": version,
            "identity": identity,
            "shards": [_plain(record) for record in shards],
        }
        if self.store.put_if_absent(f"{self.path}/manifest.json", seal(plain)):
            return Manifest(self.path, stage, version, identity, shards)
        manifest = self.manifest()
        assert manifest is not None
        return manifest


def _plain(record: Record) -> dict[str, Any]:
    files = {
        name: {
            "key": ref.key,
            "size": ref.size,
            "sha256": ref.sha256,
            "rows": ref.rows,
            **({"ranges": ref.ranges.to_text()} if ref.ranges else {}),
            **({"footer": ref.footer} if ref.footer else {}),
        }
        for name, ref in record.files.items()
    }
    return {
        "shard": record.shard,
        "attempt": record.attempt,
        "files": files,
        "stats": record.stats,
        "seconds": record.seconds,
        "node": record.node,
    }


def _record(plain: dict[str, Any]) -> Record:
    files = {
        name: FileRef(
            ref["key"],
            ref["size"],
            ref["sha256"],
            ref["rows"],
            Ranges.from_text(ref.get("ranges", "")),
            ref.get("footer", ""),
        )
        for name, ref in plain["files"].items()
    }
    made_by = plain["stats"], plain["seconds"], plain.get("node", "")
    return Record(plain["shard"], plain["attempt"], files, *made_by)


def shard_names(count: int) -> Iterator[str]:
    """`part-00003-of-00128`: the names of `count` shards, in order."""
    return (f"part-{i:05d}-of-{count:05d}" for i in range(count))
