"""The store of pair scores: a pair that any night has scored is looked up, never scored again.

A row is (text hash of the query, row of the document shard, score); which shard, and under which
model, the file's record and dataset say. After segments were merged, `origin` says where a document
of the merged shard stood when its scores were stored.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from nightrank.storage import ordinals, schemas
from nightrank.storage.dataset import FileRef
from nightrank.storage.reader import Reader

HASH = np.dtype("S16")


def look_up(
    stores: dict[int, list[FileRef]],
    key: int,
    origin: FileRef | None,
    hashes: np.ndarray,
    query_index: np.ndarray,
    rows: np.ndarray,
    read: Reader,
) -> np.ndarray:
    """Scores of pairs of one document shard.

    Args:
        stores: files by the scatter key that they were stored under.
        key: the scatter key of the shard.
        origin: ordinals that the shard's documents had before, where it was merged.
        hashes: `HASH`[q], text hashes of queries.
        query_index: int64[n], positions in `hashes`.
        rows: int64[n], document rows.
        read: opens files.

    Returns:
        float32[n]; NaN where no store holds the pair.
    """
    scores = np.full(len(rows), np.nan, np.float32)
    if not stores or not len(rows):
        return scores
    places = [np.full(len(rows), key, np.int64) << ordinals.ROW_BITS | rows]
    if origin:
        places.append(read.table(origin)["ordinal"].to_numpy()[rows])
    # Pairs as (query, place) in one int64: places are numbered by their order.
    distinct, number = np.unique(np.concatenate(places), return_inverse=True)
    order = np.argsort(hashes)
    pairs, values = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    for stored, refs in stores.items():
        for ref in refs:
            table = read.table(ref)
            query = _position(hashes, order, to_hashes(table["query_hash"]))
            where = np.int64(stored) << ordinals.ROW_BITS | table["row"].to_numpy()
            at = np.minimum(np.searchsorted(distinct, where), len(distinct) - 1)
            hit = (query >= 0) & (distinct[at] == where)
            pairs.append(query[hit] << 32 | at[hit])
            values.append(table["score"].to_numpy()[hit])
    known, first = np.unique(np.concatenate(pairs), return_index=True)
    value = np.concatenate(values)[first]
    for i in range(len(places)):
        wanted = query_index << 32 | number[i * len(rows) : (i + 1) * len(rows)]
        at = np.searchsorted(known, wanted)
        hit = at < len(known)
        hit[hit] = known[at[hit]] == wanted[hit]
        scores[hit] = value[at[hit]]
    return scores


def to_table(hashes: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> pa.Table:
    """`schemas.STORE` of pairs, without those whose score is not finite."""
    keep = np.isfinite(scores)
    data = pa.py_buffer(np.ascontiguousarray(hashes[keep]).tobytes())
    binary = pa.Array.from_buffers(pa.binary(16), int(keep.sum()), [None, data])
    columns = [binary, pa.array(rows[keep], pa.int32()), pa.array(scores[keep], pa.float32())]
    return pa.table(columns, schema=schemas.STORE)


def to_hashes(column: pa.ChunkedArray) -> np.ndarray:
    """A binary(16) column as `HASH`[n]; equal values are equal bytes, since all are as long."""
    array = pa.concat_arrays([pa.array([], column.type), *column.chunks])
    raw = np.frombuffer(array.buffers()[1] or b"", np.uint8)
    return raw[array.offset * 16 : (array.offset + len(array)) * 16].copy().view(HASH)


def _position(values: np.ndarray, order: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each wanted value stands among `values` (`order` sorts them); -1 where it does not."""
    at = np.minimum(np.searchsorted(values, wanted, sorter=order), len(values) - 1)
    found = order[at]
    return np.where(values[found] == wanted, found, -1)
