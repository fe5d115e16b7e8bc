"""Carries the lists of the previous generation over to this one, and says what must be searched.

In: tonight's distinct queries, the previous generation's and their standing lists, tombstones, and
what was found in the new segments. Out: `pool` and `bounds` (lists that stand), `audit` (lists that
stand as well but are searched again this night, to be compared) and `search` (queries to be
searched in all segments). Cardinality: one shard per query shard. Knows nothing about: vectors,
scores of pairs, how anything was searched.

A query is searched in full when it is new, when its list underflows (`retrieval.carried_lists`),
and once in `audit_nights` in any case: so every list is checked against a full search in turn, and
lists do not all wear thin on one night.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.datasets.current_corpus import tombstoned_ordinals
from nightrank.datasets.lists import PreviousLists, by_query_shard, overlapping
from nightrank.retrieval import carried_lists
from nightrank.retrieval.hybrid import BM25, DENSE
from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.storage import ordinals, schemas
from nightrank.storage.buckets import first_byte
from nightrank.storage.dataset import FileRef, Manifest, Payload
from nightrank.storage.reader import Reader

VERSION = 1


def plan(
    queries: Manifest, previous_lists: PreviousLists, found: Manifest, dead: list[FileRef]
) -> tuple[Task, ...]:
    """One task per query shard, with the earlier shards that share its range of text hashes."""
    partials = by_query_shard(queries, found)
    count, before = len(queries.shards), len(previous_lists.distinct.shards)
    moves = [
        [(number, i, ref) for i, ref in enumerate(made.files("origin"))]
        for number, made in previous_lists.moves
    ]
    tasks = []
    for i, shard in enumerate(queries.shards):
        previous = [
            (
                previous_lists.distinct.shards[j].files["queries"],
                previous_lists.merged.shards[j].files["pool"],
                previous_lists.merged.shards[j].files["bounds"],
            )
            for j in overlapping(i, count, before)
        ]
        args = {
            "queries": shard.files["queries"],
            "previous": previous,
            "partials": partials[shard.shard],
            "dead": dead,
            "moves": moves,
        }
        tasks.append(Task(shard.shard, args))
    return tuple(tasks)


class Worker:
    """Joins by text hash, buries, adds, cuts."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self._depth, self._hybrid = config["depth"], config["hybrid"]
        self._names = [DENSE, BM25][: 2 if self._hybrid else 1]
        self._segments = config["segments"]
        self._nights, self._night = config["audit_nights"], config["night"]

    def __call__(self, task: Task, read: Reader) -> Payload:
        """A list stands unless it is new, due for its audit, or short."""
        hashes = read.table(task.args["queries"], ["query_hash"])["query_hash"]
        known, pool, bounds = self._previous(hashes, task, read)
        places = moved(pool["ordinal"].to_numpy(), task.args["moves"], read)
        gone = np.isin(places, tombstoned_ordinals(task.args["dead"], read))
        # What did not move when its segment was merged was dead by then.
        gone |= ~np.isin(places >> ordinals.SEGMENT_SHIFT, self._segments)
        at = pool.schema.get_field_index("ordinal")
        pool = pool.set_column(at, "ordinal", pa.array(places)).filter(pa.array(~gone))
        fresh = [read.table(ref) for ref in task.args["partials"]]
        merged = pa.concat_tables([pool, *(table.select(pool.column_names) for table in fresh)])
        stands = pa.array(known[merged["query"].to_numpy()])
        wanted = carried_lists.kept_rows(self._depth)
        count = len(hashes)
        merged, bounds, lengths = carried_lists.cut(
            merged.filter(stands), count, self._names, wanted, bounds
        )
        short = known & carried_lists.underflows(bounds, lengths, self._depth)
        due = first_byte(hashes).astype(np.int64) % self._nights == self._night % self._nights
        search = np.flatnonzero(~known | short | due).astype(np.int32)
        query = merged["query"].to_numpy()
        audited = known & ~short & due
        stats = {
            "rate_rows": count,
            "rate_unit": "lists",
            "standing": int(known.sum()),
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
        self, hashes: pa.ChunkedArray, task: Task, read: Reader
    ) -> tuple[np.ndarray, pa.Table, carried_lists.Bounds]:
        """Which of tonight's queries stood before, their pools and bounds, numbered as tonight."""
        count = len(hashes)
        known = np.zeros(count, bool)
        bounds = carried_lists.Bounds.none(count, self._names)
        doc_ids = {
            name: ids.to_numpy(zero_copy_only=False).copy() for name, ids in bounds.doc_ids.items()
        }
        pools = [schemas.partials(self._hybrid).empty_table()]
        mine = hashes.combine_chunks()
        for queries_ref, pool_ref, bounds_ref in task.args["previous"]:
            theirs = read.table(queries_ref, ["query_hash"])["query_hash"]
            now = pc.index_in(theirs, mine).combine_chunks()
            still = pc.is_valid(now).to_numpy(zero_copy_only=False)
            number = pc.fill_null(now, -1).to_numpy()
            before = carried_lists.Bounds.from_table(read.table(bounds_ref))
            known[number[still]] = True
            for name in self._names:
                bounds.scores[name][number[still]] = before.scores[name][still]
                ids = before.doc_ids[name].filter(pa.array(still))
                doc_ids[name][number[still]] = ids.to_numpy(zero_copy_only=False)
            pool = read.table(pool_ref)
            query = number[pool["query"].to_numpy()]
            pool = pool.set_column(0, "query", pa.array(query, pa.int32()))
            pools.append(pool.filter(pa.array(query >= 0)))
        found = {name: pa.array(ids, pa.string()) for name, ids in doc_ids.items()}
        return known, pa.concat_tables(pools), carried_lists.Bounds(bounds.scores, found)


def moved(places: np.ndarray, moves: list[list[Any]], read: Reader) -> np.ndarray:
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


def stage(
    dataset: str,
    queries: Manifest,
    previous_lists: PreviousLists,
    found: Manifest,
    dead: list[FileRef],
    settings: dict[str, Any],
) -> Stage:
    """Assembles the stage; `settings` are depth, hybrid, audit_nights, night and the segments."""
    return Stage(
        name="carry",
        version=VERSION,
        dataset=dataset,
        identity={"of": previous_lists.merged.path, "found": found.path, **settings},
        tasks=plan(queries, previous_lists, found, dead),
        worker=WorkerSpec(Worker, settings),
        schemas={
            "pool": schemas.partials(settings["hybrid"]),
            "audit": schemas.partials(settings["hybrid"]),
            "bounds": schemas.bounds(settings["hybrid"]),
            "search": schemas.SEARCH,
        },
    )
