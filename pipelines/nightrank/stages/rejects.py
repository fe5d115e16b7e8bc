"""Collects every row that does not count, with its file, row and reason, in one table.

In: rejects of ingest, duplicates of delta, vectors that could not be made, pairs without a score.
Out: `rejects`. Cardinality: one. Knows nothing about: budgets, what was accepted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.datasets.current_corpus import tombstoned_ordinals
from nightrank.inputs.splits import Split
from nightrank.runtime.stage import Declaration, Task
from nightrank.storage import ordinals, schemas
from nightrank.storage.dataset import FileRef, Manifest, Payload
from nightrank.storage.reader import Reader


@dataclass(frozen=True)
class Texts:
    """Texts that were embedded: a segment's documents (with its number), or the queries (-1)."""

    segment: int
    embedded: Manifest
    texts: Manifest


@dataclass(frozen=True)
class Source:
    """One kind of input (`corpus` or `queries`) and what became of it."""

    kind: str
    ingested: Manifest
    delta: Manifest
    texts: list[Texts]


@dataclass(frozen=True)
class Place:
    """Where the rows of one split are: in its bundle and in its file.

    Attributes:
        url: of the file.
        start: number of the split's first row in the bundle.
        offset: rows of the file that earlier splits hold.
    """

    url: str
    start: int
    offset: int


@dataclass(frozen=True)
class Inputs:
    """Both inputs, the ranked lists, and files of tombstones."""

    sources: list[Source]
    ranked: Manifest
    tombstones: list[FileRef]


@dataclass(frozen=True)
class BundleRejects:
    """Rows of one ingest shard: refused ones, or with a scatter key those the delta dropped."""

    kind: str
    places: list[Place]
    file: FileRef
    key: int | None = None


@dataclass(frozen=True)
class VectorRejects:
    """Texts of one shard without a usable vector; `key` is a document shard's scatter key."""

    kind: str
    key: int
    file: FileRef
    texts: FileRef


@dataclass(frozen=True)
class Args:
    """All files with rejects."""

    rows: list[BundleRejects]
    vectors: list[VectorRejects]
    pairs: list[FileRef]
    tombstones: list[FileRef]


def tasks(inputs: Inputs) -> list[Task[Args]]:
    """One task; rejects are bounded by their budget."""
    rows = [part for source in inputs.sources for part in _bundle_rejects(source)]
    vectors = [part for source in inputs.sources for part in _vector_rejects(source)]
    args = Args(rows, vectors, inputs.ranked.files("rejects"), inputs.tombstones)
    return [Task("rejects", args)]


def _bundle_rejects(source: Source) -> Iterator[BundleRejects]:
    before: dict[str, int] = {}
    bundles, shards = source.ingested.identity["bundles"], source.ingested.shards
    for number, (bundle, shard) in enumerate(zip(bundles, shards, strict=True)):
        places, start = [], 0
        for plain, lines in zip(bundle, shard.stats["lines"], strict=True):
            url = Split.from_dict(plain).file.url
            places.append(Place(url, start, before.get(url, 0)))
            before[url] = before.get(url, 0) + lines
            start += lines
        if shard.files["rejects"].rows:
            yield BundleRejects(source.kind, places, shard.files["rejects"])
        for ref in source.delta.files("dropped"):
            if ref.range(number):
                yield BundleRejects(source.kind, places, ref, number)


def _vector_rejects(source: Source) -> Iterator[VectorRejects]:
    file = "documents" if source.kind == "corpus" else "members"
    for part in source.texts:
        pairs = zip(part.embedded.shards, part.texts.shards, strict=True)
        for number, (embedded, texts) in enumerate(pairs):
            if embedded.files["rejects"].rows:
                key = max(part.segment, 0) << ordinals.SHARD_BITS | number
                rejects = embedded.files["rejects"]
                yield VectorRejects(source.kind, key, rejects, texts.files[file])


class Worker:
    """Concatenates."""

    def __init__(self, settings: None, threads: int) -> None:
        pass

    def __call__(self, task: Task[Args], read: Reader) -> Payload:
        """Sorted by (kind, file, row)."""
        parts, args = [schemas.REJECTS.empty_table()], task.args
        for rows in args.rows:
            table = read.table(rows.file) if rows.key is None else self._dropped(rows, read)
            parts.append(_rows(rows.kind, rows.places, table))
        stats = {"current_without_vector": 0, "tombstoned_without_vector": 0}
        tombstoned = np.zeros(0, np.int64)
        if args.vectors:
            tombstoned = tombstoned_ordinals(args.tombstones, read)
        for vectors in args.vectors:
            rejects = read.table(vectors.file)
            if vectors.kind == "corpus":
                places = (np.int64(vectors.key) << ordinals.ROW_BITS) | rejects["row"].to_numpy()
                current = ~np.isin(places, tombstoned)
                rejects = rejects.filter(pa.array(current))
                stats["current_without_vector"] += int(current.sum())
                stats["tombstoned_without_vector"] += int((~current).sum())
            parts.append(_vectors(vectors.kind, rejects, read.table(vectors.texts)))
        parts += [read.table(ref) for ref in args.pairs]
        table = pa.concat_tables(parts)
        order = [(name, "ascending") for name in ("kind", "file", "row", "id")]
        content = table.sort_by(order).combine_chunks()
        return Payload({"rejects": content}, stats)

    def _dropped(self, rows: BundleRejects, read: Reader) -> pa.Table:
        """Rows of a bundle that the delta dropped, with a detail."""
        part = rows.file.range(rows.key) if rows.key is not None else None
        assert part is not None  # `tasks` names files that hold the bundle.
        table = read.range(rows.file, part)
        detail = pa.array(["another row of this id counts"] * table.num_rows, pa.string())
        return table.append_column("detail", detail)


def _rows(kind: str, places: list[Place], table: pa.Table) -> pa.Table:
    """Rows of a bundle by file and row; a file that was refused as a whole has the row -1."""
    numbers = table["row"].to_numpy()
    starts = np.array([place.start for place in places], np.int64)
    offsets = np.array([place.offset for place in places], np.int64)
    whole = numbers < 0
    # Of splits that start at one row all but the last are empty.
    at = np.where(whole, -1 - numbers, np.searchsorted(starts, numbers, side="right") - 1)
    rows = np.where(whole, -1, numbers - starts[at] + offsets[at])
    files = [places[i].url for i in at.tolist()]
    return _table(kind, files, pa.array(rows), table["id"], table["reason"], table["detail"])


def _vectors(kind: str, rejects: pa.Table, texts: pa.Table) -> pa.Table:
    """Documents and query_ids whose text gave no usable vector; they have no single input row."""
    if kind == "corpus":
        ids, reasons = texts["doc_id"].take(rejects["row"]), rejects["reason"]
    else:
        hit = pc.index_in(texts["query"], rejects["row"].combine_chunks())
        table = texts.select(["query_id"]).append_column("reason", rejects["reason"].take(hit))
        table = table.drop_null()
        ids, reasons = table["query_id"], table["reason"]
    crashed = pc.equal(reasons, "crashed_worker")
    unusable = "the encoder's output is not a usable vector"
    detail = pc.if_else(crashed, "every process that encodes it dies", unusable)
    rows = pa.array([-1] * len(ids), pa.int64())
    return _table(kind, [""] * len(ids), rows, ids, reasons, detail)


def _table(
    kind: str, files: list[str], rows: Any, ids: Any, reasons: Any, details: Any
) -> pa.Table:
    columns = [pa.array([kind] * len(files), pa.string()), pa.array(files, pa.string())]
    return pa.table([*columns, rows, ids, reasons, details], schema=schemas.REJECTS)


STAGE = Declaration(
    name="rejects",
    version=3,
    pool="general",
    scales_with="one",
    tasks=tasks,
    worker=Worker,
    settings=lambda inputs: None,
    schemas=lambda inputs: {"rejects": schemas.REJECTS},
)
