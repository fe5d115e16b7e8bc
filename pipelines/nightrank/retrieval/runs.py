"""Ragged rows: what belongs to one query stands in a run, and runs lie end to end.

Everything here works on all queries at once; a sort of all values would take some 50 ns each,
selecting within a matrix of padded runs takes 6.

Knows nothing about: documents, scores' meaning, indexes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

# Values of one padded matrix: 64 MB, whatever the number of queries.
MATRIX_VALUES = 16 << 20


def nth_largest(values: Float32, lengths: Int64, n: int) -> Float32:
    """The n-th largest value of every run.

    Args:
        values: float32, all runs end to end.
        lengths: int64[q], of the runs; they sum to `len(values)`.
        n: at least 1.

    Returns:
        float32[q]; minus infinity where a run has fewer than `n` values.
    """
    found = np.full(len(lengths), -np.inf, np.float32)
    ends = np.cumsum(lengths)
    block = max(1, MATRIX_VALUES // max(1, int(lengths.max(initial=0))))
    for begin in range(0, len(lengths), block):
        mine = lengths[begin : begin + block]
        width = int(mine.max())
        if width < n:
            continue
        last = begin + len(mine) - 1
        padded = np.full((len(mine), width), -np.inf, np.float32)
        inside = np.arange(width) < mine[:, None]
        padded[inside] = values[ends[begin] - lengths[begin] : ends[last]]
        padded.partition(width - n, axis=1)
        found[begin : begin + block] = padded[:, width - n]
    return found


def nth_of_parts(parts: list[tuple[Int32, Float32]], queries: int, n: int) -> Float32:
    """As `nth_largest`, of runs that lie in several parts.

    Args:
        parts: of each part the runs' numbers (int32, ascending) and the values.
        queries: q, how many runs there are.
        n: at least 1.
    """
    if len(parts) == 1:
        query, values = parts[0]
        return nth_largest(values, np.bincount(query, minlength=queries), n)
    query = np.concatenate([np.empty(0, np.int32), *(part[0] for part in parts)])
    values = np.concatenate([np.empty(0, np.float32), *(part[1] for part in parts)])
    # Ascending parts: a merge sort only merges them.
    order = np.argsort(query, kind="stable")
    return nth_largest(values[order], np.bincount(query, minlength=queries), n)


def within(lengths: Int64) -> Int64:
    """The position of every value in its run, from 0."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) - np.repeat(starts, lengths)


def pairs(query: NDArray[Any], row: NDArray[Any]) -> Int64:
    """(query, row) as one int64 that sorts by query, then row; both below 2**31."""
    return (query.astype(np.int64) << 32) | row.astype(np.int64)
