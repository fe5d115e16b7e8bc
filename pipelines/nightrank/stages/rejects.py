"""Collects every row that does not count, with its file, row and reason, in one table.

In: rejects of ingest, duplicates of delta, vectors that could not be made, pairs without a score.
Out: `rejects`. Cardinality: one. Knows nothing about: budgets, what was accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.datasets.current_corpus import tombstoned_ordinals
from nightrank.inputs.splits import Split
from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.storage import ordinals, schemas
from nightrank.storage.dataset import FileRef, Manifest, Payload
from nightrank.storage.reader import Reader

VERSION = 3


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


def plan(sources: list[Source], ranked: Manifest, dead: list[FileRef]) -> tuple[Task, ...]:
    """One task; rejects are bounded by their budget."""
    rows: list[tuple[str, list[Place], FileRef]] = []
    dropped: list[tuple[str, list[Place], FileRef, int]] = []
    vectors: list[tuple[str, int, FileRef, FileRef]] = []
    for source in sources:
        before: dict[str, int] = {}
        bundles = source.ingested.identity["bundles"]
        for number, (bundle, shard) in enumerate(zip(bundles, source.ingested.shards, strict=True)):
            places, start = [], 0
            for plain, lines in zip(bundle, shard.stats["lines"], strict=True):
                url = Split.from_dict(plain).file.url
                places.append(Place(url, start, before.get(url, 0)))
                before[url] = before.get(url, 0) + lines
                start += lines
            if shard.files["rejects"].rows:
                rows.append((source.kind, places, shard.files["rejects"]))
            for ref in source.delta.files("dropped"):
                if ref.range(number):
                    dropped.append((source.kind, places, ref, number))
        file = "documents" if source.kind == "corpus" else "members"
        for part in source.texts:
            pairs = zip(part.embedded.shards, part.texts.shards, strict=True)
            for number, (made, texts) in enumerate(pairs):
                if made.files["rejects"].rows:
                    key = max(part.segment, 0) << ordinals.SHARD_BITS | number
                    vectors.append((source.kind, key, made.files["rejects"], texts.files[file]))
    args = {"rows": rows, "dropped": dropped, "vectors": vectors, "dead": dead}
    return (Task("rejects", {**args, "pairs": ranked.files("rejects")}),)


class Worker:
    """Concatenates."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        pass

    def __call__(self, task: Task, read: Reader) -> Payload:
        """Sorted by (kind, file, row)."""
        parts = [schemas.REJECTS.empty_table()]
        for kind, places, ref in task.args["rows"]:
            parts.append(_rows(kind, places, read.table(ref)))
        for kind, places, ref, number in task.args["dropped"]:
            table = read.range(ref, ref.range(number))
            detail = pa.array(["another row of this id counts"] * table.num_rows, pa.string())
            parts.append(_rows(kind, places, table.append_column("detail", detail)))
        stats = {"living_without_vector": 0, "dead_without_vector": 0}
        dead = (
            tombstoned_ordinals(task.args["dead"], read)
            if task.args["vectors"]
            else np.zeros(0, np.int64)
        )
        for kind, key, rejects_ref, texts_ref in task.args["vectors"]:
            rejects = read.table(rejects_ref)
            if kind == "corpus":
                places = (np.int64(key) << ordinals.ROW_BITS) | rejects["row"].to_numpy()
                alive = ~np.isin(places, dead)
                rejects = rejects.filter(pa.array(alive))
                stats["living_without_vector"] += int(alive.sum())
                stats["dead_without_vector"] += int((~alive).sum())
            parts.append(_vectors(kind, rejects, read.table(texts_ref)))
        parts += [read.table(ref) for ref in task.args["pairs"]]
        table = pa.concat_tables(parts)
        order = [(name, "ascending") for name in ("kind", "file", "row", "id")]
        content = table.sort_by(order).combine_chunks()
        return Payload({"rejects": content}, stats)


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


def stage(dataset: str, sources: list[Source], ranked: Manifest, dead: list[FileRef]) -> Stage:
    """Assembles the stage."""
    return Stage(
        name="rejects",
        version=VERSION,
        dataset=dataset,
        identity={"of": [source.ingested.path for source in sources]},
        tasks=plan(sources, ranked, dead),
        worker=WorkerSpec(Worker, {}),
        schemas={"rejects": schemas.REJECTS},
    )
