"""Datasets: a folder of shards, a completion record per shard, and a manifest.

`<path>/_data/<shard>.<file>-<unique>.<ext>` holds data and counts only once a record names it.
`<path>/_done/<shard>.a<N>.json` is the record that commits a shard: created if absent, the first
writer wins; a damaged record is superseded by `.a<N+1>`. `<path>/manifest.json` is written last and
holds all records; its existence completes the dataset. Nothing here deletes or overwrites a file.
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
REPAIR = "move the file away and run the same command again, which recomputes its shards"


@dataclass(frozen=True)
class Blob:
    """A file that is not a table.

    Attributes:
        write: writes the content to an open file.
        check: called with the local path of the finished file before it counts; raises to refuse
            it.
        extension: of the file's name, for people who list the folder.
    """

    write: Callable[[BinaryIO], object]
    check: Callable[[str], None] | None = None
    extension: str = "bin"


Content: TypeAlias = "pa.Table | Batches | Scatter | Blob"


@dataclass
class Payload:
    """What a worker returns for one unit.

    Attributes:
        files: name to content, written in this order. A callable is called when its turn comes, so
            that the content of a later file can depend on what streaming an earlier one counted.
        stats: counts and facts for the record; read after all files are written.
        inputs: the number of inputs for a model in this unit, skipped ones included.
    """

    files: dict[str, Content | Callable[[], Content]]
    stats: dict[str, Any] = field(default_factory=dict)
    inputs: int = 0


@dataclass(frozen=True)
class FileRef:
    """One committed file.

    Attributes:
        key: path within the lake.
        size: bytes.
        sha256: of the whole file, hex.
        rows: number of rows; 0 for a file that is not a table.
        ranges: offset table of a scatter file.
        footer: xxh3-64 (hex) of a Parquet file's footer, for readers of a part of the file.
    """

    key: str
    size: int
    sha256: str
    rows: int
    ranges: Ranges = Ranges()
    footer: str = ""

    def range(self, key: int) -> Range | None:
        """The range of a scatter key; None where the file has no rows of it."""
        return next(iter(self.ranges.between(key, key + 1)), None)


@dataclass(frozen=True)
class Record:
    """The proof that a shard is committed: its files, statistics, and the seconds it took."""

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
    """A finished dataset: its stage, its identity, and the record of every shard in order."""

    path: str
    stage: str
    version: int
    identity: dict[str, Any]
    shards: tuple[Record, ...]

    def files(self, name: str) -> list[FileRef]:
        """The file `name` of every shard, in order."""
        return [shard.files[name] for shard in self.shards]

    def rows(self, name: str) -> int:
        """Rows of the file `name`, over all shards."""
        return sum(ref.rows for ref in self.files(name))

    def total(self, stat: str) -> int:
        """Sum of a statistic over all shards; 0 where a shard does not have it."""
        return sum(int(shard.stats.get(stat, 0)) for shard in self.shards)

    @property
    def empty(self) -> bool:
        """Whether the dataset has no shard."""
        return not self.shards

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
        its shard is recomputed under the next attempt number (see `next_attempts`).
        """
        newest = self._newest()
        with ThreadPoolExecutor(16) as pool:
            records = dict(zip(newest, pool.map(self._read, newest.items()), strict=True))
        sizes = self.store.files(f"{self.path}/_data")
        return {
            name: record
            for name, record in records.items()
            if record is not None
            and all(sizes.get(f.key.rsplit("/", 1)[-1]) == f.size for f in record.files.values())
        }

    def next_attempts(self) -> dict[str, int]:
        """The next attempt number of every shard that has a record, intact or damaged."""
        return {name: attempt + 1 for name, attempt in self._newest().items()}

    def _newest(self) -> dict[str, int]:
        """The newest attempt of every shard, by the names of the records."""
        newest: dict[str, int] = {}
        for name in self.store.files(f"{self.path}/_done"):
            if match := RECORD_NAME.fullmatch(name):
                newest[match[1]] = max(newest.get(match[1], -1), int(match[2]))
        return newest

    def _read(self, shard_and_attempt: tuple[str, int]) -> Record | None:
        """The record of a shard and attempt; None for a damaged one."""
        shard, attempt = shard_and_attempt
        key = f"{self.path}/_done/{shard}.a{attempt}.json"
        try:
            record = _record(unseal(self.store.read(key), self.store.path(key), REPAIR))
        except NightrankError as error:
            if error.code != "E_CORRUPT":
                raise
            return None
        # A record under another record's name counts as damaged.
        return record if (record.shard, record.attempt) == shard_and_attempt else None

    def commit(
        self, shard: str, attempt: int, payload: Payload, seconds: Callable[[], float]
    ) -> Record:
        """Writes a payload's files and then its record; the first record of an attempt wins.

        Args:
            shard: the shard's name, from `shard_names`.
            attempt: attempt number of the record; above 0 only to supersede a damaged record.
            payload: the files and statistics of the shard.
            seconds: called once, after the data are written, for the seconds that the unit took.

        Returns:
            The record that counts: this one, or one that a concurrent run created first.
        """
        files = {}
        for name, content in payload.files.items():
            written = content() if callable(content) else content
            files[name] = self._write(f"{shard}.{name}", written)
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
            scatter, tables = content, list[Ranges]()
            size, sha256 = self.store.write(key, lambda f: tables.append(write_scatter(scatter, f)))
            ranges, rows = tables[0], scatter.table.num_rows
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
        """Writes the manifest, or returns the one that a concurrent run of the same plan wrote."""
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
        name: FileRef(**{**ref, "ranges": Ranges.from_text(ref.get("ranges", ""))})
        for name, ref in plain["files"].items()
    }
    made_in = plain["stats"], plain["seconds"], plain.get("node", "")
    return Record(plain["shard"], plain["attempt"], files, *made_in)


def shard_names(count: int) -> Iterator[str]:
    """`part-00003-of-00128`: the names of `count` shards, in order."""
    return (f"part-{i:05d}-of-{count:05d}" for i in range(count))
