"""Gathers queries with identical text, so that each text is ranked once.

In: accepted queries scattered by text hash, and the rows the delta dropped. Out: `queries`
(distinct texts, sorted by hash) and `members` (query_ids of each, sorted). Cardinality: one shard
per run of hash buckets. Knows nothing about: documents, models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.config.schema import Queries
from nightrank.datasets.row_schemas import attributes_schema
from nightrank.inputs.validation import accepted_schema
from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.storage import ordinals, schemas
from nightrank.storage.buckets import BUCKETS
from nightrank.storage.dataset import Manifest, Payload, shard_names
from nightrank.storage.reader import Reader

VERSION = 1
QUERIES = pa.schema([("query_hash", pa.binary(16)), ("text", pa.string())])


def plan(ingested: Manifest, delta: Manifest, wanted_rows: int | None) -> tuple[Task, ...]:
    """At most 256 tasks, each a run of hash buckets."""
    total = ingested.rows("rows")
    count = min(BUCKETS, max(1, -(-total // ordinals.shard_rows(total, wanted_rows))))
    tasks = []
    for i, name in enumerate(shard_names(count)):
        buckets = range(BUCKETS * i // count, BUCKETS * (i + 1) // count)
        splits = []
        for split, ref in enumerate(ingested.files("rows")):
            ranges = ref.ranges.between(buckets.start, buckets.stop)
            dropped = [
                (file, part) for file in delta.files("dropped") if (part := file.range(split))
            ]
            splits.append((ref, ranges, dropped))
        tasks.append(Task(name, {"splits": splits}))
    return tuple(tasks)


class Worker:
    """Groups the queries of some buckets by text."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self._source = Queries.model_validate(config["source"])

    def __call__(self, task: Task, read: Reader) -> Payload:
        """Sorts by (hash, query_id); a distinct query is the first row of its hash."""
        pieces = [accepted_schema("queries", self._source).empty_table()]
        for ref, ranges, dropped in task.args["splits"]:
            lost = [read.range(file, part)["row"] for file, part in dropped]
            if ranges:
                table = read.ranges(ref, ranges)
                for rows in lost:
                    table = table.filter(pc.invert(pc.is_in(table["row"], rows.combine_chunks())))
                pieces.append(table)
        table = pa.concat_tables(pieces)
        table = table.sort_by([("query_hash", "ascending"), ("query_id", "ascending")])
        table = table.combine_chunks()
        first = np.ones(table.num_rows, dtype=bool)
        if table.num_rows > 1:
            hashes = table["query_hash"]
            first[1:] = pc.not_equal(hashes.slice(1), hashes.slice(0, len(first) - 1)).to_numpy()
        index = np.cumsum(first) - 1
        members = table.append_column("query", pa.array(index.astype(np.int32)))
        schema = members_schema(self._source)
        members = members.select(schema.names).cast(schema).sort_by("query_id")
        distinct = table.filter(pa.array(first)).select(QUERIES.names).cast(QUERIES)
        stats = {"rate_rows": table.num_rows, "query_ids": table.num_rows}
        return Payload({"queries": distinct, "members": members.combine_chunks()}, stats)


def members_schema(source: Queries) -> pa.Schema:
    """See `schemas.members`."""
    return schemas.members(attributes_schema(source))


def stage(
    dataset: str, source: Queries, ingested: Manifest, delta: Manifest, wanted_rows: int | None
) -> Stage:
    """Assembles the stage."""
    return Stage(
        name="distinct",
        version=VERSION,
        dataset=dataset,
        identity={"of": ingested.path, "delta": delta.path},
        tasks=plan(ingested, delta, wanted_rows),
        worker=WorkerSpec(Worker, {"source": source.model_dump(mode="json")}),
        schemas={"queries": QUERIES, "members": members_schema(source)},
    )
