"""The door to FAISS: train, add, search; `faiss_files` writes and reads through it.

An index holds local rows 0 to n-1 in the order they were added; what a row means is the caller's
matter. The metric is the inner product throughout. What FAISS does silently is made loud here: it
adds vectors with NaN that can never be found, answers NaN queries with row -1 (in Python the
*last* document) and pads short results with -1.

FAISS is imported at first use, so that importing this module is cheap.
"""

from __future__ import annotations

import functools
import importlib
import logging
import re
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import NightrankError

Float32 = NDArray[np.float32]
Index = Any  # a faiss.Index; FAISS ships no types

BUILDS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs")
# FAISS's own advice (ClusteringParameters.min_points_per_centroid); below it lists hold noise.
VECTORS_PER_LIST = 39
# The most rows a GPU's selection gives for a query (faiss/gpu/utils/DeviceDefs.cuh).
GPU_K = 2048
# Vectors, and queries with their results, on the GPU at once.
GPU_BYTES = 2 << 30

log = logging.getLogger(__name__)


def train(factory: str, vectors: Float32, threads: int) -> tuple[Index, str]:
    """Trains an empty index.

    Where there are too few vectors for what was asked, the number of lists is reduced to one per
    39 vectors; when that leaves fewer than two lists, or fewer vectors than product quantisation
    has centroids, the index is Flat, which at such sizes is as fast and exact.

    Args:
        factory: a FAISS factory string, e.g. `Flat` or `IVF1024,PQ192x4fs,RFlat`.
        vectors: float32[n, d], the training sample; n may be 0.
        threads: threads of FAISS, for this process from here on.

    Returns:
        The empty trained index, and the factory string of what was built.

    Raises:
        NightrankError: E_CONFIG for a factory string that FAISS does not take, E_CORRUPT for
            vectors that are not finite, E_MODEL without FAISS.
    """
    use_threads(threads)
    vectors = _checked(vectors, "training vectors")
    _make(factory, vectors.shape[1])  # a misspelt one is an error on a small corpus too
    fitting = _fitting_factory(factory, len(vectors))
    index = _make(fitting, vectors.shape[1])
    if not index.is_trained:
        try:
            index.train(vectors)
        except RuntimeError as error:
            if "training points" not in str(error):
                raise _bad_factory(factory, error) from None
            fitting, index = "Flat", _make("Flat", vectors.shape[1])
    if fitting != factory:
        log.warning("%s cannot be trained on %d vectors: %s", factory, len(vectors), fitting)
    return index, fitting


def build(template: Index, vectors: Float32) -> tuple[Index, str]:
    """Copies an empty trained index and adds vectors to the copy, on a GPU where there is one.

    The result is in CPU form whatever built it. A GPU may assign a vector that lies between two
    lists to the other one, so a rebuilt file need not be the same byte for byte; scores do not
    depend on it, since they are recomputed from the vectors (`first_stage`).

    Args:
        template: an empty trained index; stays as it is.
        vectors: float32[n, d].

    Returns:
        The index with n rows, and what built it: `gpu`, `cpu`, or `cpu: ` and why not the GPU.

    Raises:
        NightrankError: E_CORRUPT for vectors that are not finite.
    """
    faiss = library()
    vectors = _checked(vectors, "vectors to index")
    index, device = faiss.clone_index(template), "cpu"
    # A Flat index only stores: a GPU would add two copies and save nothing.
    if faiss.get_num_gpus() and len(vectors) and flat_vectors(index) is None:
        try:
            resources = faiss.StandardGpuResources()
            on_gpu = faiss.index_cpu_to_gpu(resources, 0, index)
            on_gpu.add(vectors)
            return faiss.index_gpu_to_cpu(on_gpu), "gpu"
        except RuntimeError as error:
            # Types without a GPU form (fast-scan PQ, refinement) and a full GPU end here alike.
            device = f"cpu: {type(index).__name__}: {str(error).splitlines()[0]}"
            index = faiss.clone_index(template)
    index.add(vectors)
    return index, device


def add(template: Index, vectors: Float32) -> Index:
    """The index alone that `build` makes."""
    return build(template, vectors)[0]


def search(
    index: Index, queries: Float32, k: int, parameters: str = ""
) -> tuple[NDArray[np.int32], NDArray[np.int64], Float32]:
    """Finds the k rows of highest inner product for every query.

    Args:
        index: a filled index; an empty one gives empty arrays.
        queries: float32[q, d].
        k: rows per query; an index with fewer gives fewer.
        parameters: a FAISS parameter string, e.g. `nprobe=32,k_factor_rf=4`; stays set.

    Returns:
        Flat arrays of one length m <= q*k, by query and then as FAISS ordered them: query int32,
        row int64, score float32 as FAISS approximates it. FAISS's -1, its filler for fewer than k
        hits, is removed here and nowhere else.

    Raises:
        NightrankError: E_CONFIG for a parameter string that this index does not take, E_CORRUPT
            for queries that are not finite or of another dimension than the index.
    """
    queries = _checked(queries, "queries")
    if queries.shape[1] != index.d:
        found = f"queries of {queries.shape[1]} dimensions for an index of {index.d}"
        raise NightrankError("E_CORRUPT", found, "", "embed both with one encoder")
    set_parameters(index, parameters)
    k = min(k, index.ntotal)
    if not k or not len(queries):
        return np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float32)
    if _in_half(index) and k <= GPU_K:
        score, row = _search_half(index, queries, k)
    else:
        score, row = index.search(queries, k)
    hits = row >= 0
    query = np.repeat(np.arange(len(queries), dtype=np.int32), hits.sum(axis=1))
    return query, row[hits], score[hits]


def set_parameters(index: Index, parameters: str) -> None:
    """Sets FAISS search parameters; raises E_CONFIG where the index does not take them."""
    if not parameters:
        return
    try:
        library().ParameterSpace().set_index_parameters(index, parameters)
    except RuntimeError as error:
        name, do = type(index).__name__, "e.g. nprobe=32 for IVF; leave it empty for Flat"
        what = f"FAISS does not take {parameters!r} for this {name}: {reason(error)}"
        raise NightrankError("E_CONFIG", what, "index.search_parameters", do) from None


def fitting_parameters(index: Index, parameters: str) -> str:
    """Keeps the parameters that an index takes, for one that was built smaller than asked for."""

    def fits(one: str) -> bool:
        try:
            set_parameters(index, one)
        except NightrankError:
            log.warning("%s does not apply to the %s built", one, type(index).__name__)
            return False
        return bool(one)

    return ",".join(filter(fits, map(str.strip, parameters.split(","))))


def flat_vectors(index: Index) -> Float32 | None:
    """Gives the stored vectors of a Flat index, float32[n, d], without a copy; None for others.

    The array lives in the index's memory: keep the index as long as the array.
    """
    faiss = library()
    flat = faiss.downcast_index(index)
    # These types alone: subclasses store the same numbers in another layout.
    if type(flat) not in (faiss.IndexFlat, faiss.IndexFlatIP):
        return None
    if not flat.ntotal:
        return np.empty((0, flat.d), np.float32)
    return faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)


def scores_are_products(index: Index) -> bool:
    """Whether `search` scores by products of the stored vectors, off by rounding alone."""
    faiss = library()
    inner = faiss.downcast_index(index)
    if type(inner) in (faiss.IndexRefine, faiss.IndexRefineFlat):
        # A refinement's scores are those of the index that it refines by.
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

    On a GPU both operands are rounded to half precision first. With u = 2^-11, each coordinate
    becomes x_i (1 + e), |e| <= u, or lies below 2^-14 and moves by at most 2^-25. The first changes
    the product by at most (2u + u^2) |q||x|; the second by 2^-25 sum(|q_i| + |x_i|), which is below
    2^-24 sqrt(d) |q| max |x| since both are scaled to norms of 1 to 2 (`_half`). Products are summed
    in float32, on tensor cores truncated rather than rounded: twice the bound above. Together
    1.0e-3 at 384 dimensions.
    """
    sums = (index.d + 2) * 2.0**-24
    if not _in_half(index):
        return sums
    return 2.0**-10 + 2.0**-22 + 2.0**-24 * np.sqrt(index.d) + 4 * sums


def threads() -> int:
    """How many threads FAISS takes in this process."""
    return int(library().omp_get_max_threads())


def imbalance(index: Index) -> float | None:
    """How unevenly an IVF index's lists are filled: 1 where evenly; None for other indexes.

    FAISS's `imbalance_factor`: lists * sum(n^2) / sum(n)^2, so the factor by which a search that
    probes lists by chance reads more than it would of even lists.
    """
    faiss = library()
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexRefine):
        inner = faiss.downcast_index(inner.base_index)
    if not isinstance(inner, faiss.IndexIVF) or not inner.ntotal:
        return None
    return float(inner.invlists.imbalance_factor())


def use_threads(threads: int) -> None:
    """Sets how many threads FAISS takes in this process; at least 1."""
    library().omp_set_num_threads(max(1, threads))


def _in_half(index: Index) -> bool:
    """Whether an index is searched in half precision on a GPU: where there is one, if Flat."""
    return bool(library().get_num_gpus()) and flat_vectors(index) is not None


def _search_half(index: Index, queries: Float32, k: int) -> tuple[Float32, NDArray[np.int64]]:
    """Searches a Flat index by half-precision products on the GPU, blocked by its memory.

    Returns:
        Scores float32[q, k] within `relative_error`, and rows int64[q, k].
    """
    faiss = library()
    stored = getattr(index, "nightrank_half", None)
    if stored is None or stored[0].shape[0] != index.ntotal:
        stored = index.nightrank_half = _half(flat_vectors(index), together=True)
    vectors, scale = stored
    asked, scales = _half(queries, together=False)
    score, row = faiss.knn_gpu(
        _gpu_memory(),
        asked,
        vectors,
        k,
        metric=faiss.METRIC_INNER_PRODUCT,
        vectorsMemoryLimit=GPU_BYTES,
        queriesMemoryLimit=GPU_BYTES,
    )
    # Powers of two: exact.
    return score * (scale * scales)[:, None].astype(np.float32), row


def _half(vectors: Float32, together: bool) -> tuple[NDArray[np.float16], NDArray[np.float64]]:
    """Rounds vectors to half precision, scaled by powers of two to a norm of 1 to 2.

    Args:
        vectors: float32[n, d].
        together: one scale for all, by the largest norm; else one for each.

    Returns:
        float16[n, d], and what products must be multiplied by, float64[1] or [n].
    """
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    if together:
        lengths = lengths.max(initial=0.0, keepdims=True)
    scales = np.exp2(np.floor(np.log2(np.where(lengths > 0, lengths, 1.0))))
    return (vectors / scales[:, None].astype(np.float32)).astype(np.float16), scales


@functools.cache
def _gpu_memory() -> Any:
    return library().StandardGpuResources()


@functools.cache
def library() -> Any:
    """The one FAISS that is installed; E_MODEL where there is none, or two."""
    found = [name for name in BUILDS if _is_installed(name)]
    if len(found) != 1:
        # Both builds install one package `faiss`: with two, files of one lie over the other's.
        what = f"exactly one FAISS build is needed, found {' and '.join(found) or 'none'}"
        do = "pip install 'nightrank[cpu]' (or [gpu]), after uninstalling all of them"
        raise NightrankError("E_MODEL", what, "", do)
    return importlib.import_module("faiss")


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _checked(vectors: Float32, what: str) -> Float32:
    if vectors.ndim != 2:
        raise ValueError(f"{what}: expected float32[n, d], found shape {vectors.shape}")
    vectors = np.ascontiguousarray(vectors, np.float32)
    # A sum is finite unless a term is not (or it overflows): no temporary of n*d booleans.
    if not np.isfinite(vectors.sum(dtype=np.float64)):
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if bad.size:
            found = f"{what} that are not finite: {bad.size} of {len(vectors)}"
            raise NightrankError(
                "E_CORRUPT", found, f"row {bad[0]}", "check the encoder's precision"
            )
    return vectors


def _fitting_factory(factory: str, num_vectors: int) -> str:
    lists = re.search(r"IVF(\d+)", factory)
    if not lists or int(lists[1]) * VECTORS_PER_LIST <= num_vectors:
        return factory
    fewer = num_vectors // VECTORS_PER_LIST
    if fewer < 2:
        return "Flat"
    return factory[: lists.start(1)] + str(fewer) + factory[lists.end(1) :]


def _make(factory: str, dimension: int) -> Index:
    faiss = library()
    try:
        index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, OverflowError) as error:
        raise _bad_factory(factory, error) from None
    if isinstance(index, (faiss.IndexIDMap, faiss.IndexIDMap2)):
        raise _bad_factory(factory, ValueError("ids are rows here, leave IDMap out"))
    return index


def _bad_factory(factory: str, error: Exception) -> NightrankError:
    what = f"FAISS cannot build {factory!r}: {reason(error)}"
    return NightrankError(
        "E_CONFIG", what, "index.factory", "use auto, or e.g. Flat or IVF1024,Flat"
    )


def reason(error: Exception) -> str:
    """Takes the message out of FAISS's text, which begins with a C++ signature and a place."""
    return re.sub(r"^Error in .*? at \S+?:\d+: ", "", str(error), flags=re.DOTALL)[:200]
