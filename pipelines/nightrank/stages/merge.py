"""Merges the partial lists of a query shard and scatters them to where the documents live.

In: partial candidates of every group, and in incremental runs the lists that were carried over.
Out: `pool` and `bounds` (lists as the next run carries them), `candidates` (top depth per query, by
the fused score where BM25 was searched too) and `scatter` (the head to be reranked, by document
shard). Cardinality: one shard per query shard. Knows nothing about: vectors, texts, scores to come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.datasets.lists import by_query_shard, scatter
from nightrank.retrieval import carried_lists, hybrid, ranking
from nightrank.retrieval.hybrid import BM25, DENSE
from nightrank.runtime.stage import Declaration, Task
from nightrank.storage import schemas
from nightrank.storage.dataset import FileRef, Manifest, Payload
from nightrank.storage.reader import Reader

# Partial lists held at once: with 16 of 262,144 queries x 125 rows a merge stays about 1 GB.
FAN_IN = 16


@dataclass(frozen=True)
class Inputs:
    """What is merged.

    Attributes:
        queries: the distinct queries.
        partials: lists of every query shard and group.
        depth: of the lists.
        head: depth of the first rerank step, 0 without one.
        bm25_weight: of the fusion; 0 without BM25.
        carried: lists of the previous generation, or None.
    """

    queries: Manifest
    partials: Manifest
    depth: int
    head: int
    bm25_weight: float
    carried: Manifest | None = None


@dataclass(frozen=True)
class Settings:
    """See `Inputs`."""

    depth: int
    head: int
    bm25_weight: float


@dataclass(frozen=True)
class Args:
    """One query shard: its partial lists, the number of its queries, and files of `carry`."""

    partials: list[FileRef]
    queries: int
    carried: dict[str, FileRef] | None


def tasks(inputs: Inputs) -> list[Task[Args]]:
    """One task per query shard, with the partial lists of all groups in order."""
    by_shard, carried = by_query_shard(inputs.queries, inputs.partials), inputs.carried
    units = []
    for number, shard in enumerate(inputs.queries.shards):
        files = carried.shards[number].files if carried else None
        args = Args(by_shard[shard.shard], shard.files["queries"].rows, files)
        units.append(Task(shard.shard, args))
    return units


class Worker:
    """Merges, cuts and scatters."""

    def __init__(self, settings: Settings, threads: int) -> None:
        self._depth, self._head = settings.depth, settings.head
        self._weight = settings.bm25_weight
        self._names = [DENSE, BM25][: 2 if self._weight else 1]

    def __call__(self, task: Task[Args], read: Reader) -> Payload:
        """Folds the partial lists, never more than `FAN_IN` at once."""
        count, refs = task.args.queries, task.args.partials
        wanted = carried_lists.kept_rows(self._depth)
        pool = schemas.partials(bool(self._weight)).empty_table()
        for start in range(0, len(refs), FAN_IN):
            tables = [pool, *(read.table(ref) for ref in refs[start : start + FAN_IN])]
            pool, _, _ = carried_lists.cut(pa.concat_tables(tables), count, self._names, wanted)
        pool, bounds, _ = carried_lists.cut(pool, count, self._names, wanted)
        stats: dict[str, Any] = {"rate_unit": "candidates"}
        if carried := task.args.carried:
            before = carried_lists.Bounds.from_table(read.table(carried["bounds"]))
            searched = np.zeros(count, bool)
            searched[read.table(carried["search"])["row"].to_numpy()] = True
            audit = read.table(carried["audit"])
            stats["lists_differing"] = self._differing(audit, pool)
            bounds = bounds.where(searched, before)
            pool = pa.concat_tables([pool, read.table(carried["pool"])])
        candidates = self._candidates(pool)
        stats["rate_rows"] = candidates.num_rows
        files = {
            "pool": pool.combine_chunks(),
            "bounds": bounds.to_table().cast(schemas.bounds(bool(self._weight))),
            "candidates": candidates,
            "scatter": scatter(candidates, self._head),
        }
        return Payload(dict(files), stats)

    def _candidates(self, pool: pa.Table) -> pa.Table:
        """The first `depth` of every query, in the order of the first stage."""
        if self._weight:
            best = hybrid.best_of_either(pool, self._depth)
            best = hybrid.fuse(best, self._weight, self._depth)
        else:
            best = ranking.rank(pool.append_column("score", pool[DENSE]), self._depth)
        schema = schemas.candidates(bool(self._weight))
        return best.select(schema.names).cast(schema)

    def _differing(self, audit: pa.Table, pool: pa.Table) -> int:
        """Of the lists that were carried over and searched again, how many are not the same."""
        query = np.unique(audit["query"].to_numpy())
        mine = pool.filter(pc.is_in(pool["query"], pa.array(query, pa.int32())))
        kept, searched = (_rows(self._candidates(table)) for table in (audit, mine))
        return len(np.unique(np.setxor1d(kept, searched)["query"]))


def _rows(table: pa.Table) -> np.ndarray:
    """Rows of (query, ordinal, score) as one comparable value each."""
    rows = np.empty(table.num_rows, [("query", "i4"), ("ordinal", "i8"), ("score", "f4")])
    for name in rows.dtype.names or ():
        rows[name] = table[name].to_numpy()
    return rows


def schemas_of(inputs: Inputs) -> dict[str, pa.Schema]:
    """Schemas of the shards' tables."""
    hybrid_lists = inputs.bm25_weight > 0
    return {
        "pool": schemas.partials(hybrid_lists),
        "bounds": schemas.bounds(hybrid_lists),
        "candidates": schemas.candidates(hybrid_lists),
        "scatter": schemas.PAIRS,
    }


STAGE = Declaration(
    name="merge",
    version=3,
    pool="general",
    scales_with="lists",
    tasks=tasks,
    worker=Worker,
    settings=lambda inputs: Settings(inputs.depth, inputs.head, inputs.bm25_weight),
    schemas=schemas_of,
)
