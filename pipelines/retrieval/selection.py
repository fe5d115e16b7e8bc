"""`index.factory: auto`: picks the index on the user's own vectors.

The rule. Up to `flat_rows` documents the index is Flat: exact, nothing to train, and there no other
form pays for itself. Above it, a few forms are built on the sample of document vectors and searched
with held-out vectors of the same sample; exact search is the truth. The fastest that reaches
`recall_target` is taken, if it is at least 1.25 times as fast as Flat; else Flat.

Why measured and not tabled: the order of the forms depends on the vectors. On 200k synthetic
clusters (384 dimensions) IVF2048,Flat answers 14,500 queries/s against 1,400 of Flat, at recall
.986; on 45k real MiniLM embeddings of short texts IVF needs a quarter of its lists for .95 and is
2.6 times *slower* than Flat (2,029 against 5,365), while PQ192x4fs with refinement reaches 16,365
at .992. So gains on easy data say nothing, and 4-bit PQ with refinement stands first here.

Timings are noisy, so another measurement may choose otherwise. The choice is made once, when the
template is trained, and recorded with it. It never changes a score, only which candidates are
found. The sample is smaller than the corpus: recall falls somewhat as a corpus grows, for which
`recall_target` leaves room.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.retrieval import faiss_index

Float32 = NDArray[np.float32]

# Held-out vectors used as queries: recall@100 of 500 queries has a standard error below .005.
MOST_QUERIES = 500
# A form must beat Flat by more than timing noise and its training are worth.
LEAST_GAIN = 1.25
REPETITIONS = 3
K_FACTORS = (2, 4, 8)
NPROBES = (8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Trial:
    """One form as measured on the sample.

    Attributes:
        recall: mean share of the exact list of `depth` that was found, 0 to 1.
        seconds_per_query: wall time over the whole block of queries, best of 3, divided by them.
    """

    factory: str
    search_parameters: str
    recall: float
    seconds_per_query: float


@dataclass(frozen=True)
class Choice:
    """What was chosen and why; `trials` is empty where nothing had to be measured."""

    factory: str
    search_parameters: str
    recall: float
    seconds_per_query: float
    reason: str
    trials: tuple[Trial, ...] = ()


def choose(
    vectors: Float32,
    num_documents: int,
    depth: int,
    recall_target: float,
    flat_rows: int,
    threads: int,
    seed: int,
) -> Choice:
    """Chooses factory and search parameters by the rule above.

    Args:
        vectors: float32[n, d], a random sample of the document vectors.
        num_documents: documents to be indexed; decides Flat, and the number of lists.
        depth: recall is measured at this depth, or a tenth of the sample if that is less.
        recall_target: least recall, 0 to 1.
        flat_rows: Flat up to this many documents.
        threads: threads of FAISS.
        seed: of the split into held-out queries and indexed vectors.

    Returns:
        The choice. Takes up to four times the sample's memory while it measures.

    Raises:
        NightrankError: E_CORRUPT for vectors that are not finite.
    """
    if num_documents <= flat_rows:
        reason = f"{num_documents} documents, at most index.flat_rows = {flat_rows}: Flat"
        return Choice("Flat", "", 1.0, 0.0, reason)
    if len(vectors) < 1000:
        reason = f"a sample of {len(vectors)} vectors is too small to measure on: Flat"
        return Choice("Flat", "", 1.0, 0.0, reason)

    order = np.random.default_rng(seed).permutation(len(vectors))
    num_queries = min(MOST_QUERIES, len(vectors) // 10)
    queries, documents = vectors[order[:num_queries]], vectors[order[num_queries:]]
    k = min(depth, len(documents) // 10)
    flat = _build("Flat", documents, threads)
    truth, seconds = _search(flat, queries, k, "")
    trials = [Trial("Flat", "", 1.0, seconds)]
    for factory, grid in _forms(vectors.shape[1], num_documents, len(documents)):
        index = _build(factory, documents, threads)
        for parameters in grid:
            found, seconds = _search(index, queries, k, parameters)
            trials.append(Trial(factory, parameters, _recall(found, truth), seconds))
            # A larger setting only costs more once the target is reached or speed is lost.
            if trials[-1].recall >= recall_target or seconds > trials[0].seconds_per_query:
                break
    return _best(trials, recall_target, k)


def _forms(dimension: int, num_documents: int, sampled: int) -> list[tuple[str, list[str]]]:
    """Lists forms with their settings, cheapest setting first."""
    # About 4 * sqrt(n) lists, a power of two, with enough sampled vectors to train each.
    wanted = 1 << round(math.log2(4 * math.sqrt(num_documents)))
    nlist = min(wanted, sampled // faiss_index.VECTORS_PER_LIST)
    probes = [p for p in NPROBES if p <= nlist // 2]
    forms = []
    if nlist >= 16:
        forms.append((f"IVF{nlist},Flat", [f"nprobe={p}" for p in probes]))
    if dimension % 2 == 0:
        codes = f"PQ{dimension // 2}x4fs,RFlat"
        forms.insert(0, (codes, [f"k_factor_rf={f}" for f in K_FACTORS]))
        if nlist >= 16:
            grid = [f"nprobe={p},k_factor_rf=4" for p in probes]
            forms.append((f"IVF{nlist},{codes}", grid))
    return forms


def _best(trials: list[Trial], recall_target: float, k: int) -> Choice:
    flat = trials[0]
    fit = [t for t in trials if t.recall >= recall_target]
    best = min(fit, key=lambda t: t.seconds_per_query)
    if best.seconds_per_query * LEAST_GAIN > flat.seconds_per_query:
        best = flat
        reason = (
            f"no form reached recall@{k} {recall_target:g} at {LEAST_GAIN:g} times Flat's speed"
        )
    else:
        gain = flat.seconds_per_query / best.seconds_per_query
        reason = f"recall@{k} {best.recall:.3f} at {gain:.1f} times Flat's speed, on the sample"
    return Choice(
        best.factory,
        best.search_parameters,
        best.recall,
        best.seconds_per_query,
        reason,
        tuple(trials),
    )


def _build(factory: str, documents: Float32, threads: int) -> faiss_index.Index:
    template, _ = faiss_index.train(factory, documents, threads)
    return faiss_index.add(template, documents)


def _search(
    index: faiss_index.Index, queries: Float32, k: int, parameters: str
) -> tuple[NDArray[np.int64], float]:
    """Returns (query << 32 | row) of every hit, and the seconds per query of the best try."""
    best = math.inf
    for _ in range(REPETITIONS):
        begin = time.perf_counter()
        query, row, _ = faiss_index.search(index, queries, k, parameters)
        best = min(best, time.perf_counter() - begin)
    return (query.astype(np.int64) << 32) | row, best / len(queries)


def _recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    return float(np.isin(truth, found).mean())
