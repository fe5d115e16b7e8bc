"""The store of pair scores: a pair that any earlier run scored is looked up, not scored again.

A row is (text hash of the query, row of the document shard, score); the file's record names the
shard, its dataset the model. After a merge of segments, `origin` gives the ordinal under which a
document's scores were stored before.
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
        stores: files by the scatter key of the document shard that they were stored for.
        key: the scatter key of the shard.
        origin: the ordinals of the shard's documents before the merge, where it was merged.
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
    for stored_key, refs in stores.items():
        for ref in refs:
            table = read.table(ref)
            query = _position(hashes, order, to_hashes(table["query_hash"]))
            where = np.int64(stored_key) << ordinals.ROW_BITS | table["row"].to_numpy()
            at = np.minimum(np.searchsorted(distinct, where), len(distinct) - 1)
            hit = (query >= 0) & (distinct[at] == where)
            pairs.append(query[hit] << 32 | at[hit])
            values.append(table["score"].to_numpy()[hit])
    known, first = np.unique(np.concatenate(pairs), return_index=True)
    value = np.concatenate(values)[first]
    for i in range(len(places)):
        asked = query_index << 32 | number[i * len(rows) : (i + 1) * len(rows)]
        at = np.searchsorted(known, asked)
        hit = at < len(known)
        hit[hit] = known[at[hit]] == asked[hit]
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
    """A binary(16) column as `HASH`[n]; all values are 16 bytes long, so equal values are equal."""
    array = pa.concat_arrays([pa.array([], column.type), *column.chunks])
    raw = np.frombuffer(array.buffers()[1] or b"", np.uint8)
    return raw[array.offset * 16 : (array.offset + len(array)) * 16].copy().view(HASH)


def _position(values: np.ndarray, order: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The position of each wanted value in `values` (`order` sorts them); -1 where absent."""
    at = np.minimum(np.searchsorted(values, wanted, sorter=order), len(values) - 1)
    position = order[at]
    return np.where(values[position] == wanted, position, -1)
