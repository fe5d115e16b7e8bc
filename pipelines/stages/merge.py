"""Merges the partial lists of a query shard and scatters them to where the documents live.

In: partial candidates of every group. Out: `candidates` (top depth per query, by the fused score
where BM25 was searched too) and `scatter` (the head to be reranked, by document shard).
Cardinality: one shard per query shard. Knows nothing about: vectors, texts, scores to come.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.retrieval import hybrid
from pipelines.retrieval.ranking import merge
from pipelines.runtime.stage import Stage, Task, WorkerSpec
from pipelines.storage import ordinals, schemas
from pipelines.storage.dataset import Manifest, Payload
from pipelines.storage.reader import Reader
from pipelines.storage.scatter import Scatter

VERSION = 2
# Partial lists held at once: with 16 of 262,144 queries x 100 rows a merge stays about 1 GB.
FAN_IN = 16


def plan(queries: Manifest, partials: Manifest) -> tuple[Task, ...]:
    """One task per query shard, with the partial lists of all groups in order."""
    by_shard: dict[str, list[Any]] = {shard.shard: [] for shard in queries.shards}
    for shard in partials.shards:
        by_shard[shard.shard.rpartition(".group-")[0]].append(shard.files["candidates"])
    return tuple(Task(name, {"partials": refs}) for name, refs in by_shard.items())


class Worker:
    """Merges, cuts and scatters."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self._depth, self._head = config["depth"], config["head"]
        self._weight = config["bm25_weight"]

    def __call__(self, task: Task, read: Reader) -> Payload:
        """Folds the partial lists, never more than `FAN_IN` at once."""
        both = self._weight > 0
        merged = (schemas.PARTIALS if both else schemas.CANDIDATES).empty_table()
        refs = task.args["partials"]
        for start in range(0, len(refs), FAN_IN):
            tables = [merged, *(read.table(ref) for ref in refs[start : start + FAN_IN])]
            if both:
                merged = hybrid.best_of_either(pa.concat_tables(tables), self._depth)
            else:
                merged = merge(tables, self._depth)
        if both:
            merged = hybrid.fuse(merged, self._weight, self._depth)
        schema = schemas.candidates(both)
        merged = merged.select(schema.names).cast(schema)
        files = {"candidates": merged, "scatter": scatter(merged, self._head)}
        return Payload(files, {"rate_rows": merged.num_rows, "rate_unit": "candidates"})


def scatter(table: pa.Table, depth: int) -> Scatter:
    """The first `depth` of every list as (query, row), keyed by (segment, document shard)."""
    head = table.filter(pc.less_equal(table["rank"], depth))
    places = head["ordinal"].to_numpy()
    rows = pa.array(ordinals.row(places))
    pairs = pa.table([head["query"], rows], schema=schemas.PAIRS)
    return Scatter(pairs, ordinals.shard_key(places))


def stage(
    dataset: str, queries: Manifest, partials: Manifest, depth: int, head: int, bm25_weight: float
) -> Stage:
    """Assembles the stage; `head` is the depth of the first rerank step, 0 without one."""
    settings = {"depth": depth, "head": head, "bm25_weight": bm25_weight}
    return Stage(
        name="merge",
        version=VERSION,
        dataset=dataset,
        identity={"of": partials.path, **settings},
        tasks=plan(queries, partials),
        worker=WorkerSpec(Worker, settings),
        schemas={"candidates": schemas.candidates(bm25_weight > 0), "scatter": schemas.PAIRS},
    )
