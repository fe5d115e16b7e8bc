"""FAISS scores that are inner products up to rounding: of which indexes, and within what bound.

With a GPU, a Flat index is searched on it in half precision. Lists stay exact, since `first_stage`
fetches more rows within the bound and recomputes all scores.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightrank.retrieval.faiss_library import Float32, Index, flat_vectors, gpus, library

# The most rows that FAISS selects for a query on a GPU (faiss/gpu/utils/DeviceDefs.cuh).
GPU_K = 2048
# Limits of the vectors, and of the queries with their results, on the GPU at once.
GPU_BYTES = 2 << 30
# The half-precision vectors of open indexes: a group of shards is searched many times.
_halves: weakref.WeakKeyDictionary[Index, Any] = weakref.WeakKeyDictionary()


def scores_are_products(index: Index) -> bool:
    """Whether `search` scores by products of the stored vectors, up to rounding."""
    faiss = library()
    inner = faiss.downcast_index(index)
    if type(inner) in (faiss.IndexRefine, faiss.IndexRefineFlat):
        # The scores of a refined index are those of its refining index.
        inner = faiss.downcast_index(inner.refine_index)
    return type(inner) in (
        faiss.IndexFlat,
        faiss.IndexFlatIP,
        faiss.IndexIVFFlat,
        faiss.IndexHNSWFlat,
    )


def relative_error(index: Index) -> float:
    """Bounds |score - q.x| / (|q| * max |x|) where `scores_are_products`.

    In float32 it is (d + 2) * u with u = 2^-24, for any order of summation, the rounding of the
    exact score to float32 included (Higham, Accuracy and Stability of Numerical Algorithms, 2nd
    ed., section 3.1): 2.3e-5 at 384 dimensions.

    On a GPU both operands are rounded to half precision first. With u = 2^-11, a coordinate becomes
    x_i (1 + e), |e| <= u, or lies below 2^-14 and moves by at most 2^-25 (IEEE 754 binary16). The
    first changes the product by at most (2u + u^2) |q||x|; the second by 2^-25 sum(|q_i| + |x_i|),
    at most 2^-24 sqrt(d) |q| max |x| since both are scaled to norms of 1 to 2 (`_half`). Products
    are exact in float32 and summed in it; tensor cores truncate where others round, which doubles u
    (Fasi et al., Numerical Behavior of NVIDIA Tensor Cores, 2021). 1.1e-3 at 384 dimensions.
    """
    sums = (index.d + 2) * 2.0**-24
    if not in_half(index):
        return sums
    return 2.0**-10 + 2.0**-22 + 2.0**-24 * np.sqrt(index.d) + 4 * sums


def in_half(index: Index) -> bool:
    """Whether an index is searched in half precision: a Flat one where there is a GPU."""
    return gpus() > 0 and flat_vectors(index) is not None


def search_half(index: Index, queries: Float32, k: int) -> tuple[Float32, NDArray[np.int64]]:
    """Searches a Flat index by half-precision products on the GPU, in blocks of bounded memory.

    Returns:
        Scores float32[q, k] within `relative_error`, and rows int64[q, k].
    """
    faiss = library()
    cached = _halves.get(index)
    if cached is None or len(cached[0]) != index.ntotal:
        cached = _halves[index] = _half(np.asarray(flat_vectors(index)), together=True)
    vectors, scale = cached
    half_queries, scales = _half(queries, together=False)
    score, row = faiss.knn_gpu(
        _gpu_memory(),
        half_queries,
        vectors,
        k,
        metric=faiss.METRIC_INNER_PRODUCT,
        vectorsMemoryLimit=GPU_BYTES,
        queriesMemoryLimit=GPU_BYTES,
    )
    # The scales are powers of two: exact.
    return score * (scale * scales)[:, None].astype(np.float32), row


def _half(vectors: Float32, together: bool) -> tuple[NDArray[np.float16], NDArray[np.float64]]:
    """Rounds vectors to half precision, scaled by powers of two to a norm of 1 to 2.

    Args:
        vectors: float32[n, d].
        together: whether all have one scale, by the largest norm; else each has its own.

    Returns:
        float16[n, d], and the factors of products, float64[1] or [n].
    """
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    if together:
        lengths = lengths.max(initial=0.0, keepdims=True)
    scales = np.exp2(np.floor(np.log2(np.where(lengths > 0, lengths, 1.0))))
    return (vectors / scales[:, None].astype(np.float32)).astype(np.float16), scales


@functools.cache
def _gpu_memory() -> Any:
    return library().StandardGpuResources()
