"""Ordinals: a document's place as one int64 of (segment 16 bits, document shard 16, row 31).

The sign bit stays clear. FAISS files hold local rows; an index shard's `rows` file maps them to
ordinals without a segment, whose number the index generation assigns.
"""

from __future__ import annotations

import numpy as np

ROW_BITS = 31
SHARD_BITS = 16
SEGMENT_SHIFT = ROW_BITS + SHARD_BITS
MAX_DOCUMENT_SHARDS = 1 << SHARD_BITS
MAX_SEGMENTS = 1 << 15  # The sign bit stays clear.


def pack(segment: int | np.ndarray, shard: int, rows: np.ndarray) -> np.ndarray:
    """Ordinals of rows of one document shard.

    Args:
        segment: its number, or one for each row.
        shard: the document shard; 0 where `rows` are ordinals without a segment.
        rows: int64[n].

    Returns:
        int64[n].
    """
    return (
        (np.asarray(segment, dtype=np.int64) << SEGMENT_SHIFT)
        | (np.int64(shard) << ROW_BITS)
        | rows
    )


def shard_key(ordinals: np.ndarray) -> np.ndarray:
    """(segment, document shard) as one int64: the key that candidates are scattered by."""
    return np.asarray(ordinals, dtype=np.int64) >> ROW_BITS


def split_key(key: int) -> tuple[int, int]:
    """(segment, document shard) of a `shard_key`."""
    return key >> SHARD_BITS, key & (MAX_DOCUMENT_SHARDS - 1)


def row(ordinals: np.ndarray) -> np.ndarray:
    """The row within the document shard (int32)."""
    return (np.asarray(ordinals, dtype=np.int64) & ((1 << ROW_BITS) - 1)).astype(np.int32)


def shard_rows(rows: int, configured: int | None) -> int:
    """Rows per shard: as configured, else clamp(rows/256, 256, 262144), rounded up."""
    return configured or min(max(-(-rows // 256), 256), 262_144)
