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

from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.stages.delta import all_dead
from nightrank.storage import ordinals, schemas
from nightrank.storage.dataset import FileRef, Manifest, Payload
from nightrank.storage.inputs import Split
from nightrank.storage.reader import Reader

VERSION = 2


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


def plan(sources: list[Source], ranked: Manifest, dead: list[FileRef]) -> tuple[Task, ...]:
    """One task; rejects are bounded by their budget."""
    rows: list[tuple[str, str, int, FileRef]] = []
    dropped: list[tuple[str, str, int, FileRef, int]] = []
    vectors: list[tuple[str, int, FileRef, FileRef]] = []
    for source in sources:
        before: dict[str, int] = {}
        splits = [Split.from_dict(plain) for plain in source.ingested.identity["splits"]]
        for number, (split, shard) in enumerate(zip(splits, source.ingested.shards, strict=True)):
            url = split.file.url
            offset = before.get(url, 0)  # Rows of the file that earlier splits hold.
            before[url] = offset + int(shard.stats["lines"])
            rows.append((source.kind, url, offset, shard.files["rejects"]))
            for ref in source.delta.files("dropped"):
                if ref.range(number):
                    dropped.append((source.kind, url, offset, ref, number))
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
        for kind, url, offset, ref in task.args["rows"]:
            parts.append(_rows(kind, url, offset, read.table(ref)))
        for kind, url, offset, ref, split in task.args["dropped"]:
            table = read.range(ref, ref.range(split))
            detail = pa.array(["another row of this id counts"] * table.num_rows, pa.string())
            parts.append(_rows(kind, url, offset, table.append_column("detail", detail)))
        stats = {"living_without_vector": 0, "dead_without_vector": 0}
        dead = all_dead(task.args["dead"], read) if task.args["vectors"] else np.zeros(0, np.int64)
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


def _rows(kind: str, url: str, offset: int, table: pa.Table) -> pa.Table:
    """Rows of an input file, numbered within the file; -1 stands for the whole file."""
    rows = pc.if_else(pc.less(table["row"], 0), table["row"], pc.add(table["row"], offset))
    return _table(kind, url, rows, table["id"], table["reason"], table["detail"])


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
    return _table(kind, "", pa.array([-1] * len(ids), pa.int64()), ids, reasons, detail)


def _table(kind: str, file: str, rows: Any, ids: Any, reasons: Any, details: Any) -> pa.Table:
    count = len(ids)
    columns = [pa.array([kind] * count, pa.string()), pa.array([file] * count, pa.string())]
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
