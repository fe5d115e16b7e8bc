"""FAISS indexes: train, add, search.

An index holds local rows 0 to n-1 in the order in which they were added; the caller knows the
documents. The metric is always the inner product. Cases that FAISS accepts silently raise errors or
are corrected here: it adds vectors with NaN, which no search returns, answers NaN queries with row
-1 (in Python the *last* document) and pads short results with -1.
"""

from __future__ import annotations

import logging
import re

import numpy as np
from numpy.typing import NDArray

from nightrank.errors import NightrankError
from nightrank.retrieval import faiss_products
from nightrank.retrieval.faiss_library import (
    Float32,
    Index,
    flat_vectors,
    gpus,
    library,
    reason,
    use_threads,
)

# The minimum of FAISS (ClusteringParameters.min_points_per_centroid); with fewer, lists hold noise.
VECTORS_PER_LIST = 39
log = logging.getLogger(__name__)


def train(factory: str, vectors: Float32, threads: int) -> tuple[Index, str]:
    """Trains an empty index.

    With too few vectors for the factory, the number of lists is reduced to one per 39 vectors. If
    fewer than two lists remain, or product quantisation has more centroids than there are vectors,
    the index is Flat, which at such sizes is as fast, and exact.

    Args:
        factory: a FAISS factory string, e.g. `Flat` or `IVF1024,PQ192x4fs,RFlat`.
        vectors: float32[n, d], the training sample; n may be 0.
        threads: of FAISS; stays set for this process.

    Returns:
        The empty trained index, and its factory string.

    Raises:
        NightrankError: E_CONFIG for a factory string that FAISS refuses, E_CORRUPT for
            vectors that are not finite, E_MODEL without FAISS.
    """
    use_threads(threads)
    vectors = _checked(vectors, "training vectors")
    _make(factory, vectors.shape[1])  # A misspelt factory is an error on a small corpus too.
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

    The result is always in CPU form. A GPU may assign a vector that lies between two lists to the
    other one, so that the bytes of a rebuilt file can differ; scores do not, since they are
    recomputed from the vectors (`first_stage`).

    Args:
        template: an empty trained index; it is not changed.
        vectors: float32[n, d].

    Returns:
        The index with n rows, and the device: `gpu`, `cpu`, or `cpu: ` and why not the GPU.

    Raises:
        NightrankError: E_CORRUPT for vectors that are not finite.
    """
    faiss = library()
    vectors = _checked(vectors, "vectors to index")
    index, device = faiss.clone_index(template), "cpu"
    # A Flat index only stores vectors: a GPU would add two copies and save nothing.
    if gpus() and len(vectors) and flat_vectors(index) is None:
        try:
            resources = faiss.StandardGpuResources()
            on_gpu = faiss.index_cpu_to_gpu(resources, 0, index)
            on_gpu.add(vectors)
            return faiss.index_gpu_to_cpu(on_gpu), "gpu"
        except RuntimeError as error:
            # Index types without a GPU form (fast-scan PQ, refinement), and a full GPU.
            device = f"cpu: {type(index).__name__}: {str(error).splitlines()[0]}"
            index = faiss.clone_index(template)
    index.add(vectors)
    return index, device


def add(template: Index, vectors: Float32) -> Index:
    """The index of `build`, without the device."""
    return build(template, vectors)[0]


def search(
    index: Index, queries: Float32, k: int, parameters: str = ""
) -> tuple[NDArray[np.int32], NDArray[np.int64], Float32]:
    """Finds the k rows of highest inner product for every query.

    Args:
        index: a filled index; an empty one gives empty arrays.
        queries: float32[q, d].
        k: rows per query; a smaller index returns fewer.
        parameters: a FAISS parameter string, e.g. `nprobe=32,k_factor_rf=4`; stays set.

    Returns:
        Flat arrays of one length m <= q*k, by query and then as FAISS ordered them: query int32,
        row int64, score float32 as FAISS approximates it. The -1 with which FAISS pads fewer than k
        hits is removed here, and only here.

    Raises:
        NightrankError: E_CONFIG for a parameter string that this index refuses, E_CORRUPT
            for queries that are not finite or of another dimension than the index.
    """
    queries = _checked(queries, "queries")
    if queries.shape[1] != index.d:
        what = f"expected queries of {index.d} dimensions, found {queries.shape[1]}"
        raise NightrankError("E_CORRUPT", what, "", "embed both with one encoder")
    set_parameters(index, parameters)
    k = min(k, index.ntotal)
    if not k or not len(queries):
        return np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float32)
    if faiss_products.in_half(index) and k <= faiss_products.GPU_K:
        score, row = faiss_products.search_half(index, queries, k)
    else:
        score, row = index.search(queries, k)
    hits = row >= 0
    query = np.repeat(np.arange(len(queries), dtype=np.int32), hits.sum(axis=1))
    return query, row[hits], score[hits]


def set_parameters(index: Index, parameters: str) -> None:
    """Sets FAISS search parameters; raises E_CONFIG where the index refuses them."""
    if not parameters:
        return
    try:
        library().ParameterSpace().set_index_parameters(index, parameters)
    except RuntimeError as error:
        name, do = type(index).__name__, "e.g. nprobe=32 for IVF; leave it empty for Flat"
        what = f"FAISS refuses {parameters!r} for this {name}: {reason(error)}"
        raise NightrankError("E_CONFIG", what, "index.search_parameters", do) from None


def fitting_parameters(index: Index, parameters: str) -> str:
    """The parameters that an index accepts, for one that was built smaller than configured."""

    def fits(parameter: str) -> bool:
        try:
            set_parameters(index, parameter)
        except NightrankError:
            log.warning("%s does not apply to the %s built", parameter, type(index).__name__)
            return False
        return bool(parameter)

    return ",".join(filter(fits, map(str.strip, parameters.split(","))))


def imbalance(index: Index) -> float | None:
    """The imbalance of an IVF index's lists: 1 for equal sizes; None for other indexes.

    FAISS's `imbalance_factor`, lists * sum(n^2) / sum(n)^2: a search that probes random lists reads
    that many times as much as with lists of equal size.
    """
    faiss = library()
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexRefine):
        inner = faiss.downcast_index(inner.base_index)
    if not isinstance(inner, faiss.IndexIVF) or not inner.ntotal:
        return None
    return float(inner.invlists.imbalance_factor())


def _checked(vectors: Float32, what: str) -> Float32:
    if vectors.ndim != 2:
        raise ValueError(f"{what}: expected float32[n, d], found shape {vectors.shape}")
    vectors = np.ascontiguousarray(vectors, np.float32)
    # A sum is finite unless a term is not (or it overflows): no temporary of n*d booleans.
    if not np.isfinite(vectors.sum(dtype=np.float64)):
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if bad.size:
            detail = f"expected finite {what}, found {bad.size} of {len(vectors)} that are not"
            do = "check the encoder's precision"
            raise NightrankError("E_CORRUPT", detail, f"row {bad[0]}", do)
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
        raise _bad_factory(factory, ValueError("leave IDMap out: ids are rows"))
    return index


def _bad_factory(factory: str, error: Exception) -> NightrankError:
    what = f"FAISS cannot build {factory!r}: {reason(error)}"
    return NightrankError(
        "E_CONFIG", what, "index.factory", "use auto, or e.g. Flat or IVF1024,Flat"
    )
