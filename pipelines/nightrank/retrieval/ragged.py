"""Ragged arrays: the values of each query are one row, and rows lie end to end in a flat array.

Functions work on all rows at once: sorting all values would take some 50 ns each, selecting within
a matrix of padded rows takes 6.

Knows nothing about: documents, the meaning of scores, indexes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

# Values of one padded matrix: 64 MB, for any number of queries.
MATRIX_VALUES = 16 << 20


def nth_largest(values: Float32, lengths: Int64, n: int) -> Float32:
    """The n-th largest value of every row.

    Args:
        values: float32, all rows end to end.
        lengths: int64[q], of the rows; they sum to `len(values)`.
        n: at least 1.

    Returns:
        float32[q]; minus infinity where a row has fewer than `n` values.
    """
    nth = np.full(len(lengths), -np.inf, np.float32)
    ends = np.cumsum(lengths)
    block = max(1, MATRIX_VALUES // max(1, int(lengths.max(initial=0))))
    for begin in range(0, len(lengths), block):
        part = lengths[begin : begin + block]
        width = int(part.max())
        if width < n:
            continue
        last = begin + len(part) - 1
        padded = np.full((len(part), width), -np.inf, np.float32)
        inside = np.arange(width) < part[:, None]
        padded[inside] = values[ends[begin] - lengths[begin] : ends[last]]
        padded.partition(width - n, axis=1)
        nth[begin : begin + block] = padded[:, width - n]
    return nth


def nth_of_parts(parts: list[tuple[Int32, Float32]], queries: int, n: int) -> Float32:
    """As `nth_largest`, for rows that are spread over several parts.

    Args:
        parts: for each part the query of every value (int32, ascending) and the values (float32).
        queries: q, the number of rows.
        n: at least 1.

    Returns:
        float32[q]; minus infinity where a row has fewer than `n` values.
    """
    if len(parts) == 1:
        query, values = parts[0]
        return nth_largest(values, np.bincount(query, minlength=queries), n)
    query = np.concatenate([np.empty(0, np.int32), *(part[0] for part in parts)])
    values = np.concatenate([np.empty(0, np.float32), *(part[1] for part in parts)])
    # The parts are ascending: a merge sort only merges them.
    order = np.argsort(query, kind="stable")
    return nth_largest(values[order], np.bincount(query, minlength=queries), n)


def within(lengths: Int64) -> Int64:
    """The position of every value in its row, from 0; int64[sum(lengths)]."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) - np.repeat(starts, lengths)


def pairs(query: NDArray[Any], row: NDArray[Any]) -> Int64:
    """(query, row) as one int64 that sorts by query, then row; both below 2**31."""
    return (query.astype(np.int64) << 32) | row.astype(np.int64)
