"""Gathers queries with identical text, so that each text is ranked once.

In: accepted queries scattered by text hash, and the rows the delta dropped. Out: `queries`
(distinct texts, sorted by hash) and `members` (query_ids of each, sorted). Cardinality: one shard
per run of hash buckets. Knows nothing about: documents, models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.config.schema import Queries
from nightrank.datasets.row_schemas import attributes_schema
from nightrank.inputs.validation import accepted_schema
from nightrank.runtime.identity import outside_identity
from nightrank.runtime.stage import Declaration, Task
from nightrank.storage import ordinals, schemas
from nightrank.storage.buckets import BUCKETS
from nightrank.storage.dataset import FileRef, Manifest, Payload, shard_names
from nightrank.storage.ranges import Range
from nightrank.storage.reader import Reader

QUERIES = pa.schema([("query_hash", pa.binary(16)), ("text", pa.string())])


@dataclass(frozen=True)
class Inputs:
    """Accepted queries, the rows that the delta dropped, and how many a shard is to hold."""

    ingested: Manifest
    delta: Manifest
    shard_rows: int | None
    source: Queries = outside_identity()


@dataclass(frozen=True)
class SplitPart:
    """What one ingest shard has of some buckets, and the rows of it that do not count."""

    rows: FileRef
    ranges: tuple[Range, ...]
    dropped: list[tuple[FileRef, Range]]


@dataclass(frozen=True)
class Args:
    """A run of hash buckets, by ingest shard."""

    splits: list[SplitPart]


def tasks(inputs: Inputs) -> list[Task[Args]]:
    """At most 256 tasks, each a run of hash buckets."""
    total = inputs.ingested.rows("rows")
    count = min(BUCKETS, max(1, -(-total // ordinals.shard_rows(total, inputs.shard_rows))))
    dropped_files = inputs.delta.files("dropped")
    units = []
    for i, name in enumerate(shard_names(count)):
        buckets = range(BUCKETS * i // count, BUCKETS * (i + 1) // count)
        splits = []
        for split, ref in enumerate(inputs.ingested.files("rows")):
            ranges = ref.ranges.between(buckets.start, buckets.stop)
            dropped = [(file, part) for file in dropped_files if (part := file.range(split))]
            splits.append(SplitPart(ref, ranges, dropped))
        units.append(Task(name, Args(splits)))
    return units


class Worker:
    """Groups the queries of some buckets by text."""

    def __init__(self, settings: Queries, threads: int) -> None:
        self._source = settings

    def __call__(self, task: Task[Args], read: Reader) -> Payload:
        """Sorts by (hash, query_id); a distinct query is the first row of its hash."""
        pieces = [accepted_schema("queries", self._source).empty_table()]
        for split in task.args.splits:
            lost = [read.range(file, part)["row"] for file, part in split.dropped]
            if split.ranges:
                table = read.ranges(split.rows, split.ranges)
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


STAGE = Declaration(
    name="distinct",
    version=1,
    pool="general",
    scales_with="queries",
    tasks=tasks,
    worker=Worker,
    settings=lambda inputs: inputs.source,
    schemas=lambda inputs: {"queries": QUERIES, "members": members_schema(inputs.source)},
)
