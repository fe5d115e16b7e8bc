"""Ordinals: a document's place as one int64 of (segment 16 bits, document shard 16, row 31).

The sign bit stays clear. FAISS files hold local rows; an index shard's `rows` file maps them to
ordinals without the segment, which is given its number by the index generation.
"""

from __future__ import annotations

import numpy as np

ROW_BITS = 31
SHARD_BITS = 16
SEGMENT_SHIFT = ROW_BITS + SHARD_BITS
MAX_DOCUMENT_SHARDS = 1 << SHARD_BITS
MAX_SEGMENTS = 1 << 15  # The sign bit stays clear.


def pack(segment: int | np.ndarray, shard: int, rows: np.ndarray) -> np.ndarray:
    """Ordinals (int64) of rows of one document shard, or of ordinals that have no segment yet."""
    return (
        (np.asarray(segment, dtype=np.int64) << SEGMENT_SHIFT)
        | (np.int64(shard) << ROW_BITS)
        | rows
    )


def shard_key(ordinals: np.ndarray) -> np.ndarray:
    """(segment, document shard) as one int64: the key candidates are scattered by."""
    return np.asarray(ordinals, dtype=np.int64) >> ROW_BITS


def split_key(key: int) -> tuple[int, int]:
    """(segment, document shard) of a `shard_key`."""
    return key >> SHARD_BITS, key & (MAX_DOCUMENT_SHARDS - 1)


def row(ordinals: np.ndarray) -> np.ndarray:
    """The row within the document shard (int32)."""
    return (np.asarray(ordinals, dtype=np.int64) & ((1 << ROW_BITS) - 1)).astype(np.int32)


def shard_rows(rows: int, wanted: int | None) -> int:
    """Rows per shard: as the config says, else clamp(rows/256, 256, 262144), rounded up."""
    return wanted or min(max(-(-rows // 256), 256), 262_144)
