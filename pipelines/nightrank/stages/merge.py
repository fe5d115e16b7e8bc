"""Merges the partial lists of a query shard and scatters them to where the documents live.

In: partial candidates of every group, and on later nights the lists that were carried over. Out:
`pool` and `bounds` (lists as the next night carries them), `candidates` (top depth per query, by
the fused score where BM25 was searched too) and `scatter` (the head to be reranked, by document
shard). Cardinality: one shard per query shard. Knows nothing about: vectors, texts, scores to come.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.datasets.lists import by_query_shard, scatter
from nightrank.retrieval import carried_lists, hybrid, ranking
from nightrank.retrieval.hybrid import BM25, DENSE
from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.storage import schemas
from nightrank.storage.dataset import Manifest, Payload
from nightrank.storage.reader import Reader

VERSION = 3
# Partial lists held at once: with 16 of 262,144 queries x 125 rows a merge stays about 1 GB.
FAN_IN = 16


def plan(queries: Manifest, partials: Manifest, carried: Manifest | None) -> tuple[Task, ...]:
    """One task per query shard, with the partial lists of all groups in order."""
    by_shard = by_query_shard(queries, partials)
    tasks = []
    for number, shard in enumerate(queries.shards):
        args: dict[str, Any] = {
            "partials": by_shard[shard.shard],
            "queries": shard.files["queries"].rows,
            "carried": carried.shards[number].files if carried else None,
        }
        tasks.append(Task(shard.shard, args))
    return tuple(tasks)


class Worker:
    """Merges, cuts and scatters."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self._depth, self._head = config["depth"], config["head"]
        self._weight = config["bm25_weight"]
        self._names = [DENSE, BM25][: 2 if self._weight else 1]

    def __call__(self, task: Task, read: Reader) -> Payload:
        """Folds the partial lists, never more than `FAN_IN` at once."""
        count, refs = task.args["queries"], task.args["partials"]
        wanted = carried_lists.kept_rows(self._depth)
        pool = schemas.partials(bool(self._weight)).empty_table()
        for start in range(0, len(refs), FAN_IN):
            tables = [pool, *(read.table(ref) for ref in refs[start : start + FAN_IN])]
            pool, _, _ = carried_lists.cut(pa.concat_tables(tables), count, self._names, wanted)
        pool, bounds, _ = carried_lists.cut(pool, count, self._names, wanted)
        stats: dict[str, Any] = {"rate_unit": "candidates"}
        if carried := task.args["carried"]:
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
            found = hybrid.best_of_either(pool, self._depth)
            found = hybrid.fuse(found, self._weight, self._depth)
        else:
            found = ranking.rank(pool.append_column("score", pool[DENSE]), self._depth)
        schema = schemas.candidates(bool(self._weight))
        return found.select(schema.names).cast(schema)

    def _differing(self, audit: pa.Table, pool: pa.Table) -> int:
        """Of the lists that stood and were searched again, how many are not the same."""
        query = np.unique(audit["query"].to_numpy())
        mine = pool.filter(pc.is_in(pool["query"], pa.array(query, pa.int32())))
        kept, found = (_rows(self._candidates(table)) for table in (audit, mine))
        return len(np.unique(np.setxor1d(kept, found)["query"]))


def _rows(table: pa.Table) -> np.ndarray:
    """Rows of (query, ordinal, score) as one comparable value each."""
    rows = np.empty(table.num_rows, [("query", "i4"), ("ordinal", "i8"), ("score", "f4")])
    for name in rows.dtype.names or ():
        rows[name] = table[name].to_numpy()
    return rows


def stage(
    dataset: str,
    queries: Manifest,
    partials: Manifest,
    depth: int,
    head: int,
    bm25_weight: float,
    carried: Manifest | None = None,
) -> Stage:
    """Assembles the stage; `head` is the depth of the first rerank step, 0 without one."""
    settings = {"depth": depth, "head": head, "bm25_weight": bm25_weight}
    hybrid_lists = bm25_weight > 0
    return Stage(
        name="merge",
        version=VERSION,
        dataset=dataset,
        identity={"of": partials.path, "carried": carried.path if carried else None, **settings},
        tasks=plan(queries, partials, carried),
        worker=WorkerSpec(Worker, settings),
        schemas={
            "pool": schemas.partials(hybrid_lists),
            "bounds": schemas.bounds(hybrid_lists),
            "candidates": schemas.candidates(hybrid_lists),
            "scatter": schemas.PAIRS,
        },
    )
