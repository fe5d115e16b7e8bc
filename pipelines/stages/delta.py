"""Decides which of several rows with one id counts.

In: ids of all splits, one bucket range at a time, so that no task reads all ids. Out: `dropped`,
the rows that do not count, scattered by input split. Cardinality: one shard per run of buckets.
Knows nothing about: texts, segments, models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import NightrankError
from pipelines.runtime.stage import Stage, Task, WorkerSpec
from pipelines.stages.ingest import BUCKETS
from pipelines.storage import schemas
from pipelines.storage.dataset import Manifest, Payload, shard_names
from pipelines.storage.reader import Reader
from pipelines.storage.scatter import Scatter

VERSION = 1
# About 100 bytes a row in Arrow: 0.4 GB a task, three times that while sorting.
ROWS_PER_TASK = 4_000_000


def plan(ingested: Manifest) -> tuple[Task, ...]:
    """One task per run of buckets of about four million rows."""
    count = min(BUCKETS, max(1, -(-ingested.rows("ids") // ROWS_PER_TASK)))
    tasks = []
    for i, name in enumerate(shard_names(count)):
        buckets = range(BUCKETS * i // count, BUCKETS * (i + 1) // count)
        ranges = [
            (split, ref, part)
            for split, ref in enumerate(ingested.files("ids"))
            for part in ref.ranges
            if part.key in buckets
        ]
        tasks.append(Task(name, {"ranges": ranges}))
    return tuple(tasks)


class Worker:
    """Finds the superseded rows of some buckets."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self._policy: str = config["policy"]

    def __call__(self, task: Task, read: Reader) -> Payload:
        """`last` and `strict` keep the last row of an id, `first` and `error` the first."""
        tables = [schemas.IDS.empty_table().append_column("split", pa.array([], pa.int32()))]
        for split, ref, part in task.args["ranges"]:
            table = read.range(ref, part)
            splits = pa.array(np.full(table.num_rows, split, np.int32))
            tables.append(table.append_column("split", splits))
        table = pa.concat_tables(tables)
        order = [("id", "ascending"), ("split", "ascending"), ("row", "ascending")]
        table = table.sort_by(order).combine_chunks()
        same = np.zeros(max(table.num_rows - 1, 0), dtype=bool)  # Row i and i+1 share their id.
        if table.num_rows > 1:
            ids = table["id"]
            same = pc.equal(ids.slice(0, table.num_rows - 1), ids.slice(1)).to_numpy()
        self._refuse(table, same)
        dropped = np.zeros(table.num_rows, dtype=bool)
        if self._policy in ("last", "strict"):
            dropped[:-1] = same
        else:
            dropped[1:] = same
        lost = table.filter(pa.array(dropped))
        reason = "duplicate" if self._policy in ("last", "strict") else "duplicate_id"
        columns = [lost["row"], lost["id"], pa.array([reason] * lost.num_rows, pa.string())]
        content = Scatter(pa.table(columns, schema=schemas.DROPPED), lost["split"].to_numpy())
        return Payload({"dropped": content}, {"dropped": lost.num_rows})

    def _refuse(self, table: pa.Table, same: np.ndarray) -> None:
        if self._policy not in ("strict", "error") or not same.any():
            return
        wrong = same
        if self._policy == "strict":
            hashes = table["content_hash"]
            wrong = same & pc.not_equal(hashes.slice(0, len(same)), hashes.slice(1)).to_numpy()
        if wrong.any():
            found = pc.unique(table["id"].slice(0, len(same)).filter(pa.array(wrong)))
            examples = ", ".join(repr(value)[:80] for value in found.slice(0, 3).to_pylist())
            if self._policy == "strict":
                what = f"{len(found)} doc_ids stand for different texts, e.g. {examples}"
                do = "make doc_ids unique, or set corpus.duplicates=last"
            else:
                what = f"{len(found)} query_ids stand more than once, e.g. {examples}"
                do = "make query_ids unique, or set queries.on_dup_query=reject"
            raise NightrankError("E_SCHEMA", what, "", do)


def stage(dataset: str, kind: str, ingested: Manifest, policy: str) -> Stage:
    """Assembles the stage for the corpus or the queries."""
    return Stage(
        name=f"delta {kind}",
        version=VERSION,
        dataset=dataset,
        identity={"of": ingested.path, "policy": policy},
        tasks=plan(ingested),
        worker=WorkerSpec(Worker, {"policy": policy}),
        schemas={"dropped": schemas.DROPPED},
    )
