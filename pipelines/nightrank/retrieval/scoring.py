"""Inner products of pairs with the same bits on any CPU, in any batch, with any threads.

A product of two float32 is exact in float64; what differs between libraries is the order in which
products are summed. The order here is a binary tree of element-wise additions, fixed by d alone;
the float64 sum is rounded to float32 once.

Summing in that order takes 2.3 times as long as a library's dot product. So the library sums, and
only sums whose rounding error could change the float32 are repeated by the tree: about one pair in
100,000.

Knows nothing about: indexes, queries' lists.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

# Vectors of one block, as float64: stays in a core's cache. 1 to 3 MB take the same time, 12 MB
# three times as long.
PRODUCT_BYTES = 1 << 20
# From this many pairs per query, a call per query is faster than copies of its vector: it takes two
# thirds of the time at 100 pairs, and the same at 3.
LEAST_RUN = 8


def exact_scores(
    queries: Float32,
    vectors: Float32,
    query: Int32,
    row: Int64,
    largest_norm: float = np.inf,
    threads: int = 1,
) -> Float32:
    """Computes inner products of pairs.

    Args:
        queries: float32[q, d].
        vectors: float32[n, d].
        query: int32[m], rows of `queries`.
        row: int64[m], rows of `vectors`.
        largest_norm: an upper bound of the vectors' Euclidean norms; infinite where unknown, which
            sums every pair by the tree.
        threads: blocks computed at once.

    Returns:
        float32[m], rounded once, from the float64 sum.
    """
    scores = np.zeros(len(row), np.float32)
    dimension = queries.shape[1]
    if not dimension:
        return scores
    wide = queries.astype(np.float64)
    error = _error(wide, largest_norm)
    step = max(1, PRODUCT_BYTES // (8 * dimension))

    def score_block(begin: int) -> None:
        part = slice(begin, begin + step)
        of, block = query[part], vectors[row[part]].astype(np.float64)
        if not np.isfinite(largest_norm):
            scores[part] = _by_tree(block * wide[of])
            return
        total = _products(block, wide, of)
        low, high = (total - error[of]).astype(np.float32), (total + error[of]).astype(np.float32)
        # The sign of a sum of 0 depends on the order.
        doubtful = np.flatnonzero(~(low == high) | (total == 0))
        if len(doubtful):
            low[doubtful] = _by_tree(block[doubtful] * wide[of[doubtful]])
        scores[part] = low

    begins = range(0, len(row), step)
    if threads < 2 or len(begins) < 2:
        for begin in begins:
            score_block(begin)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(score_block, begins))
    return scores


def _products(vectors: Float64, queries: Float64, of: Int32) -> Float64:
    """Row i times query of[i]; pairs are mostly sorted by query, whose vector is not copied."""
    starts = np.flatnonzero(of[1:] != of[:-1]) + 1
    if len(of) < LEAST_RUN * (len(starts) + 1):
        return np.asarray(np.vecdot(vectors, queries[of]))
    total = np.empty(len(of))
    for begin, end in itertools.pairwise([0, *starts.tolist(), len(of)]):
        np.vecdot(vectors[begin:end], queries[of[begin]], out=total[begin:end])
    return total


def norms(vectors: Float32) -> Float64:
    """Euclidean norms, float64[n]."""
    return np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))


def _error(queries: Float64, largest_norm: float) -> Float64:
    """Bounds the difference of two float64 sums of the same exact products, by query.

    Each lies within d * 2^-53 * sum |q_i x_i| / (1 - d * 2^-53) of the true sum, whatever the order
    (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1), and the sum of
    absolute products is at most |q| * |x|. 1.001 covers the rounding of the norms.
    """
    length = np.sqrt(np.vecdot(queries, queries))
    return np.asarray(1.001 * 2 * (queries.shape[1] + 2) * 2.0**-53 * length * largest_norm)


def _by_tree(products: Float64) -> Float64:
    """Sums every row; overwrites `products`."""
    width = products.shape[1]
    while width > 1:
        half = width // 2
        # An odd last column is kept after the sums, for the next round.
        products[:, :half] += products[:, half : 2 * half]
        if width % 2:
            products[:, half] = products[:, width - 1]
        width = half + width % 2
    return products[:, 0]
