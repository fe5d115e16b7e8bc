"""Lists of candidates by query shard: where they are, how they are cut and scattered."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.storage import ordinals, schemas
from nightrank.storage.buckets import BUCKETS
from nightrank.storage.dataset import FileRef, Manifest
from nightrank.storage.scatter import Scatter


@dataclass(frozen=True)
class PreviousLists:
    """The lists of an earlier generation.

    Attributes:
        distinct: its distinct queries.
        merged: its merge stage's manifest, with `pool` and `bounds`.
        moves: segment compactions since, oldest first: for each the new segment's number and its
            manifest, whose `origin` says where every document stood before.
    """

    distinct: Manifest
    merged: Manifest
    moves: tuple[tuple[int, Manifest], ...] = ()


def by_query_shard(queries: Manifest, searched: Manifest | None) -> dict[str, list[FileRef]]:
    """Partial lists of every query shard, groups in order."""
    partials: dict[str, list[FileRef]] = {shard.shard: [] for shard in queries.shards}
    for shard in searched.shards if searched else ():
        partials[shard.shard.rpartition(".group-")[0]].append(shard.files["candidates"])
    return partials


def overlapping(shard: int, count: int, before: int) -> list[int]:
    """Of `before` shards of distinct queries, those that share text hashes with one of `count`."""
    low, high = BUCKETS * shard // count, BUCKETS * (shard + 1) // count
    return [
        other
        for other in range(before)
        if BUCKETS * other // before < high and BUCKETS * (other + 1) // before > low
    ]


def lists(ranked: pa.Table, members: pa.Table, lengths: np.ndarray) -> pa.Table:
    """The kept lists of some query_ids, nested, each with its digest.

    Args:
        ranked: `schemas.ranked`, query_ids in the order of `members`.
        members: has `query_id`.
        lengths: int64[n], rows of every query_id.

    Returns:
        `schemas.LISTS`. The digest is blake2b-128 (hex) over doc_ids and scores in order.
    """
    names = [field.name for field in schemas.LIST.value_type]
    columns = [ranked[name].combine_chunks() for name in names]
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    rows = pa.StructArray.from_arrays(columns, fields=list(schemas.LIST.value_type))
    nested = pa.ListArray.from_arrays(pa.array(ends), rows)
    ids = pa.ListArray.from_arrays(pa.array(ends), columns[0])
    texts = pc.binary_join(ids, "\n").to_pylist()
    scores = ranked["score"].to_numpy()
    digests = [
        hashlib.blake2b(text.encode() + scores[a:b].tobytes(), digest_size=16).hexdigest()
        for text, a, b in zip(texts, ends[:-1].tolist(), ends[1:].tolist(), strict=True)
    ]
    columns_of_lists = [members["query_id"], pa.array(digests, pa.string()), nested]
    return pa.table(columns_of_lists, schema=schemas.LISTS)


def scatter(table: pa.Table, depth: int) -> Scatter:
    """The first `depth` of every list as (query, row, rank), by (segment, document shard)."""
    head = table.filter(pc.less_equal(table["rank"], depth))
    places = head["ordinal"].to_numpy()
    rows = pa.array(ordinals.row(places))
    pairs = pa.table([head["query"], rows, head["rank"]], schema=schemas.PAIRS)
    return Scatter(pairs, ordinals.shard_key(places))
