"""Says what a publication changed: for those who push results onwards, and for the gate.

In: the kept lists of this generation and of the one before, by the hash of the query_id. Out:
`changes`, one row per query_id whose list is not what it was. Cardinality: one shard per run of id
buckets. Knows nothing about: documents, models, judgements, limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.runtime.stage import Declaration, Task
from nightrank.storage import buckets, schemas
from nightrank.storage.dataset import Manifest, Payload, shard_names
from nightrank.storage.reader import Reader

# About 500 bytes a list of ten in memory, twice (old and new).
LISTS_PER_TASK = 1_000_000
# Rank-biased overlap (Webber, Moffat and Zobel, TOIS 2010): p = 0.9 puts 86 % of the weight on the
# first ten ranks.
PERSISTENCE = 0.9
OVERLAP_DEPTH = 10
EXAMPLES = 3


@dataclass(frozen=True)
class Inputs:
    """Rank manifests of this generation and of the published one, None where there is none."""

    ranked: Manifest
    published: Manifest | None


@dataclass(frozen=True)
class Args:
    """A run of id buckets of both."""

    new: list[buckets.Part]
    old: list[buckets.Part]


def tasks(inputs: Inputs) -> list[Task[Args]]:
    """One task per run of buckets of about a million lists."""
    new = inputs.ranked.files("lists")
    old = inputs.published.files("lists") if inputs.published else []
    runs = buckets.runs(inputs.ranked.rows("lists"), LISTS_PER_TASK)
    return [
        Task(name, Args(*(buckets.parts(enumerate(files), run) for files in (new, old))))
        for name, run in zip(shard_names(len(runs)), runs, strict=True)
    ]


class Worker:
    """Compares digests; lists only where they differ."""

    def __init__(self, settings: None, threads: int) -> None:
        pass

    def __call__(self, task: Task[Args], read: Reader) -> Payload:
        """A query that was withdrawn is a `delete`; all else that differs an `upsert`."""
        new, old = (self._lists(parts, read) for parts in (task.args.new, task.args.old))
        at = pc.index_in(new["query_id"], old["query_id"].combine_chunks())
        known = pc.is_valid(at).to_numpy(zero_copy_only=False)
        earlier = old.take(pc.fill_null(at, 0)) if old.num_rows else None
        same = np.zeros(new.num_rows, bool)
        if earlier is not None:
            same = known & pc.equal(new["digest"], earlier["digest"]).to_numpy()
        still = pc.is_in(old["query_id"], new["query_id"].combine_chunks())
        gone = old.filter(pc.invert(still))
        changed = new.filter(pa.array(~same))
        digests = pa.nulls(changed.num_rows, pa.string())
        if earlier is not None:
            was = pc.if_else(pa.array(known), earlier["digest"], None)
            digests = pc.cast(was, pa.string()).filter(pa.array(~same))
        upserts = [
            changed["query_id"],
            pa.array(["upsert"] * changed.num_rows, pa.string()),
            digests,
            changed["digest"],
            changed["list"],
        ]
        deletes = [
            gone["query_id"],
            pa.array(["delete"] * gone.num_rows, pa.string()),
            gone["digest"],
            pa.nulls(gone.num_rows, pa.string()),
            pa.nulls(gone.num_rows, schemas.LIST),
        ]
        parts = [pa.table(columns, schema=schemas.CHANGES) for columns in (upserts, deletes)]
        table = pa.concat_tables(parts).sort_by("query_id").combine_chunks()
        stats: dict[str, Any] = {
            "rate_rows": new.num_rows,
            "upserts": changed.num_rows,
            "deletes": gone.num_rows,
            "unchanged": int(same.sum()),
            "before": old.num_rows,
            "withdrawn_examples": gone["query_id"].slice(0, EXAMPLES).to_pylist(),
        }
        if earlier is not None:
            both, pair = pa.array(known), known & ~same
            stats |= _compared(
                new.filter(pa.array(pair)), earlier.filter(pa.array(pair)), int(same.sum())
            )
            stats["asked_before"] = int(pc.sum(pc.cast(both, pa.int64())).as_py() or 0)
        return Payload({"changes": table}, stats)

    def _lists(self, parts: list[buckets.Part], read: Reader) -> pa.Table:
        tables = [part.read(read, "query_id") for part in parts]
        return pa.concat_tables([schemas.LISTS.empty_table(), *tables]).combine_chunks()


def _compared(new: pa.Table, old: pa.Table, same: int) -> dict[str, Any]:
    """Overlap of the old and new lists, and queries that lost theirs, with examples of each."""
    # Most lists that changed did so in their scores alone: those need no look at their documents.
    joined = [pc.binary_join(_doc_ids(table), "\n") for table in (new, old)]
    alike = pc.and_(pc.equal(*joined), pc.not_equal(joined[0], ""))
    same += int(pc.sum(pc.cast(alike, pa.int64())).as_py() or 0)
    new, old = (table.filter(pc.invert(alike)) for table in (new, old))
    ids, lost, overlaps = new["query_id"].to_pylist(), [], []
    for i, (now, was) in enumerate(zip(_documents(new), _documents(old), strict=True)):
        if was and not now:
            lost.append(ids[i])
        elif was:
            overlaps.append((overlap(now, was), ids[i]))
    worst = sorted(overlaps)[:EXAMPLES]
    return {
        "overlap_sum": same + sum(value for value, _ in overlaps),
        "overlap_of": same + len(overlaps),
        "least_overlap": [[query_id, round(value, 4)] for value, query_id in worst],
        "lost": len(lost),
        "lost_examples": lost[:EXAMPLES],
    }


def _doc_ids(table: pa.Table) -> pa.Array:
    """doc_ids of every list, best first: list<string>."""
    nested = pa.concat_arrays([pa.array([], schemas.LIST), *table["list"].chunks])
    lengths = nested.value_lengths().to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), nested.flatten().field("doc_id"))


def _documents(table: pa.Table) -> list[list[str]]:
    """doc_ids of every list to the depth that is compared."""
    return [ids[:OVERLAP_DEPTH] for ids in _doc_ids(table).to_pylist()]


def overlap(one: list[str], other: list[str]) -> float:
    """Rank-biased overlap of two lists, cut at the longer one's end and scaled to 0 to 1.

    sum_d p^(d-1) * |one[:d] and other[:d]| / d, over the same sum of identical lists.
    """
    depth = max(len(one), len(other))
    seen: tuple[set[str], set[str]] = (set(), set())
    total = weight = 0.0
    for d in range(1, depth + 1):
        for side, members in zip((one, other), seen, strict=True):
            members.update(side[d - 1 : d])
        share = PERSISTENCE ** (d - 1)
        total += share * len(seen[0] & seen[1]) / d
        weight += share
    return total / weight if weight else 1.0


STAGE = Declaration(
    name="changes",
    version=1,
    pool="general",
    scales_with="lists",
    tasks=tasks,
    worker=Worker,
    settings=lambda inputs: None,
    schemas=lambda inputs: {"changes": schemas.CHANGES},
)
