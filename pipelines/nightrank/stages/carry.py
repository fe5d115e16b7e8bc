"""Carries the lists of the previous generation over to this one, and says what must be searched.

In: this run's distinct queries, those of the previous generation and their lists, tombstones, and
what was found in the new segments. Out: `pool` and `bounds` (lists that are still valid), `audit`
(lists that are valid but are searched again in this run, to be compared) and `search` (queries to
be searched in all segments). Cardinality: one shard per query shard. Knows nothing about: vectors,
scores of pairs, how anything was searched.

A query is searched in full when it is new, when its list underflows (`retrieval.carried_lists`),
and once in `audit_nights` in any case: so every list is checked against a full search in turn, and
lists do not all become short in the same run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.datasets.current_corpus import tombstoned_ordinals
from nightrank.datasets.lists import PreviousLists, by_query_shard, overlapping
from nightrank.retrieval import carried_lists
from nightrank.retrieval.hybrid import BM25, DENSE
from nightrank.runtime.stage import Declaration, Task
from nightrank.storage import ordinals, schemas
from nightrank.storage.buckets import first_byte
from nightrank.storage.dataset import FileRef, Manifest, Payload
from nightrank.storage.reader import Reader


@dataclass(frozen=True)
class Inputs:
    """What is carried over.

    Attributes:
        queries: this run's distinct queries.
        previous: lists of the earlier generation.
        partials: what was found in the new segments.
        tombstones: files of them.
        depth: of the lists.
        hybrid: whether BM25 is searched too.
        audit_nights: a list is searched in full once in so many runs.
        run_number: of this run, in the line of generations that build on each other.
        segments: numbers of the segments that exist.
    """

    queries: Manifest
    previous: PreviousLists
    partials: Manifest
    tombstones: list[FileRef]
    depth: int
    hybrid: bool
    audit_nights: int
    run_number: int
    segments: list[int]


@dataclass(frozen=True)
class Settings:
    """See `Inputs`."""

    depth: int
    hybrid: bool
    audit_nights: int
    run_number: int
    segments: list[int]


@dataclass(frozen=True)
class PreviousShard:
    """A shard of the earlier generation: its distinct queries, their lists and bounds."""

    queries: FileRef
    pool: FileRef
    bounds: FileRef


@dataclass(frozen=True)
class Args:
    """One query shard.

    Attributes:
        queries: the distinct queries.
        previous: earlier shards that share text hashes with it.
        partials: its lists of the new segments.
        tombstones: see `Inputs`.
        moves: by compaction, oldest first: (segment, shard, `origin` file).
    """

    queries: FileRef
    previous: list[PreviousShard]
    partials: list[FileRef]
    tombstones: list[FileRef]
    moves: list[list[tuple[int, int, FileRef]]]


def tasks(inputs: Inputs) -> list[Task[Args]]:
    """One task per query shard, with the earlier shards that share its range of text hashes."""
    queries, before = inputs.queries, inputs.previous
    partials = by_query_shard(queries, inputs.partials)
    moves = [
        [(number, i, ref) for i, ref in enumerate(merged.files("origin"))]
        for number, merged in before.moves
    ]
    distinct, lists = before.distinct.shards, before.merged.shards
    units = []
    for i, shard in enumerate(queries.shards):
        previous = [
            PreviousShard(
                distinct[j].files["queries"], lists[j].files["pool"], lists[j].files["bounds"]
            )
            for j in overlapping(i, len(queries.shards), len(distinct))
        ]
        args = Args(
            shard.files["queries"], previous, partials[shard.shard], inputs.tombstones, moves
        )
        units.append(Task(shard.shard, args))
    return units


class Worker:
    """Joins by text hash, buries, adds, cuts."""

    def __init__(self, settings: Settings, threads: int) -> None:
        self._settings = settings
        self._depth, self._hybrid = settings.depth, settings.hybrid
        self._names = [DENSE, BM25][: 2 if self._hybrid else 1]

    def __call__(self, task: Task[Args], read: Reader) -> Payload:
        """A list is carried over unless it is new, due for its audit, or short."""
        hashes = read.table(task.args.queries, ["query_hash"])["query_hash"]
        known, pool, bounds = self._previous(hashes, task.args.previous, read)
        places = moved(pool["ordinal"].to_numpy(), task.args.moves, read)
        gone = np.isin(places, tombstoned_ordinals(task.args.tombstones, read))
        # What did not move when its segment was merged was tombstoned by then.
        gone |= ~np.isin(places >> ordinals.SEGMENT_SHIFT, self._settings.segments)
        at = pool.schema.get_field_index("ordinal")
        pool = pool.set_column(at, "ordinal", pa.array(places)).filter(pa.array(~gone))
        fresh = [read.table(ref) for ref in task.args.partials]
        merged = pa.concat_tables([pool, *(table.select(pool.column_names) for table in fresh)])
        was_known = pa.array(known[merged["query"].to_numpy()])
        wanted = carried_lists.kept_rows(self._depth)
        count = len(hashes)
        merged, bounds, lengths = carried_lists.cut(
            merged.filter(was_known), count, self._names, wanted, bounds
        )
        short = known & carried_lists.underflows(bounds, lengths, self._depth)
        period, number = self._settings.audit_nights, self._settings.run_number
        due = first_byte(hashes).astype(np.int64) % period == number % period
        search = np.flatnonzero(~known | short | due).astype(np.int32)
        query = merged["query"].to_numpy()
        audited = known & ~short & due
        stats = {
            "rate_rows": count,
            "rate_unit": "lists",
            "known": int(known.sum()),
            "underflowed": int(short.sum()),
            "audited": int(audited.sum()),
            "searched": len(search),
        }
        schema = schemas.partials(self._hybrid)
        files = {
            "pool": merged.filter(pa.array((known & ~short & ~due)[query])),
            "audit": merged.filter(pa.array(audited[query])),
        }
        files = {name: table.select(schema.names).cast(schema) for name, table in files.items()}
        files["bounds"] = bounds.to_table().cast(schemas.bounds(self._hybrid))
        files["search"] = pa.table([pa.array(search)], schema=schemas.SEARCH)
        return Payload(dict(files), stats)

    def _previous(
        self, hashes: pa.ChunkedArray, previous: list[PreviousShard], read: Reader
    ) -> tuple[np.ndarray, pa.Table, carried_lists.Bounds]:
        """Which queries were asked before, their pools and bounds, numbered as in this run."""
        count = len(hashes)
        known = np.zeros(count, bool)
        bounds = carried_lists.Bounds.none(count, self._names)
        doc_ids = {
            name: ids.to_numpy(zero_copy_only=False).copy() for name, ids in bounds.doc_ids.items()
        }
        pools = [schemas.partials(self._hybrid).empty_table()]
        mine = hashes.combine_chunks()
        for shard in previous:
            theirs = read.table(shard.queries, ["query_hash"])["query_hash"]
            now = pc.index_in(theirs, mine).combine_chunks()
            still = pc.is_valid(now).to_numpy(zero_copy_only=False)
            number = pc.fill_null(now, -1).to_numpy()
            before = carried_lists.Bounds.from_table(read.table(shard.bounds))
            known[number[still]] = True
            for name in self._names:
                bounds.scores[name][number[still]] = before.scores[name][still]
                ids = before.doc_ids[name].filter(pa.array(still))
                doc_ids[name][number[still]] = ids.to_numpy(zero_copy_only=False)
            pool = read.table(shard.pool)
            query = number[pool["query"].to_numpy()]
            pool = pool.set_column(0, "query", pa.array(query, pa.int32()))
            pools.append(pool.filter(pa.array(query >= 0)))
        doc_id_arrays = {name: pa.array(ids, pa.string()) for name, ids in doc_ids.items()}
        return known, pa.concat_tables(pools), carried_lists.Bounds(bounds.scores, doc_id_arrays)


def moved(
    places: np.ndarray, moves: list[list[tuple[int, int, FileRef]]], read: Reader
) -> np.ndarray:
    """Ordinals after compactions; `moves` are `origin` files by (segment, shard), oldest first."""
    for files in moves:
        old, new = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for segment, shard, ref in files:
            origin = read.table(ref)["ordinal"].to_numpy()
            old.append(origin)
            new.append(ordinals.pack(segment, shard, np.arange(len(origin), dtype=np.int64)))
        before, after = np.concatenate(old), np.concatenate(new)
        order = np.argsort(before)
        before, after = before[order], after[order]
        at = np.searchsorted(before, places)
        hit = at < len(before)
        hit[hit] = before[at[hit]] == places[hit]
        places = places.copy()
        places[hit] = after[at[hit]]
    return places


def schemas_of(inputs: Inputs) -> dict[str, pa.Schema]:
    """Schemas of the shards' tables."""
    return {
        "pool": schemas.partials(inputs.hybrid),
        "audit": schemas.partials(inputs.hybrid),
        "bounds": schemas.bounds(inputs.hybrid),
        "search": schemas.SEARCH,
    }


def settings_of(inputs: Inputs) -> Settings:
    """What the worker needs of the inputs."""
    return Settings(
        inputs.depth, inputs.hybrid, inputs.audit_nights, inputs.run_number, inputs.segments
    )


STAGE = Declaration(
    name="carry",
    version=1,
    pool="general",
    scales_with="lists",
    tasks=tasks,
    worker=Worker,
    settings=settings_of,
    schemas=schemas_of,
)
