"""`index.factory: auto`: picks the index on the user's own vectors.

The rule. Up to `flat_rows` documents the index is Flat: exact, nothing to train, and there no other
form pays for itself. So it is at any size where FAISS has a GPU and lists are short enough for it:
products of half precision take an H100 some 6 to 9 ps a pair of 384 dimensions, a core 13 to 50 ns
in the best form here. Else, a few forms are built on the sample of document vectors and searched
with held-out vectors of the same sample; exact search is the truth. Of every form the cheapest
setting that reaches `recall_target` is found by bisection, and timed; the fastest is taken, if it
is at least 1.1 times as fast as Flat; else Flat.

Why measured and not tabled: the order of the forms depends on the vectors and on their number. On
200k real MiniLM embeddings of passages, at recall .98, PQ codes with refinement are twice as fast
as Flat and the same codes in IVF lists, a fifth of them probed, four times; IVF of whole vectors is
no faster than Flat (`benchmarks/results/retrieval.md`). On a quarter of the number the codes alone
stood first; on synthetic clusters IVF gains tenfold, which says nothing of real data.

How it is measured decides the order. Exact search is a matrix product: of 256 queries at once it
runs at a ninth of its speed, so blocks of 4,096 are timed, as a search has them. A search fetches a
margin beyond `depth`, so the forms are measured with it. Each form is timed in turns with Flat, for
a machine is not equally fast at all times: what counts is the median of the ratios. Lists gain with
size, codes alone do not: of 250,000 clustered vectors the codes were faster, of a million lists by
1.6 times. So each form is timed with half of the sample too, and what grows is told from the rest.

Documents stand in for queries, and are easier to find neighbours of: 128 of 1024 lists found .983
of a held-out document's hundred and .970 of a real query's. So a form must lose no more than half
of what `recall_target` allows.

The choice is made once, when the template is trained, and recorded with it. It never changes a
score, only which candidates are found.
"""

from __future__ import annotations

import bisect
import math
import statistics
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightrank.retrieval import faiss_files, faiss_index, faiss_library, runs
from nightrank.retrieval.faiss_library import Index
from nightrank.retrieval.faiss_products import GPU_K

Float32 = NDArray[np.float32]

# Held-out vectors used as queries: recall@100 of 500 queries has a standard error below .005.
MOST_QUERIES = 500
# Queries timed at once; the held-out ones over and over.
TIMED_QUERIES = 4096
# Of smaller samples the depth shrinks with them, to no less than this.
LEAST_DEPTH = 10
# A form must beat Flat by more than timing noise and its training are worth.
LEAST_GAIN = 1.1
# Of the loss that is allowed to real queries, what held-out documents may show.
LOSS = 0.5
REPETITIONS = 3
K_FACTORS = (2, 4, 8, 16)
# Of codes in lists, by the dimensions that 4 bits stand for: of coarser ones more must be refined.
K_FACTORS_IN_LISTS = {2: (2, 4), 4: (4, 8)}
# Lists probed, in quarters of an octave: half an octave costs up to 1.4 times what was needed.
NPROBES = [round(2 ** (step / 4)) for step in range(12, 80)]
# What takes so much longer than the fastest so far, when timed once, is not timed again.
HOPELESS = 1.3


@dataclass(frozen=True)
class Trial:
    """One form as measured on the sample.

    Attributes:
        recall: mean share of the exact list of `depth` that was found, 0 to 1.
        seconds_per_query: of the largest index shard to come: Flat's, times the ratio taken in
            turns with it, the median of 3, one of what is not to be taken.
        bytes_per_vector: of the index and of the raw vectors that a search needs for its scores.
    """

    factory: str
    search_parameters: str
    recall: float
    seconds_per_query: float
    bytes_per_vector: float = 0.0


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
    shard_rows: int,
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
        shard_rows: documents of the largest index shard: speed is that of one as large.
        depth: recall is measured at this depth, times the share of the documents that the sample
            is, but at 10 at least, or a tenth of the sample if that is less.
        recall_target: least recall, 0 to 1.
        flat_rows: Flat up to this many documents.
        threads: threads of FAISS.
        seed: of the split into held-out queries and indexed vectors.

    Returns:
        The choice. Takes up to five times the sample's memory while it measures.

    Raises:
        NightrankError: E_CORRUPT for vectors that are not finite.
    """
    if num_documents <= flat_rows:
        reason = f"{num_documents} documents, at most index.flat_rows = {flat_rows}: Flat"
        return Choice("Flat", "", 1.0, 0.0, reason)
    # A search fetches a margin beyond the depth, and more where lists may tie.
    if faiss_library.gpus() and 2 * depth <= GPU_K:
        reason = f"{num_documents} documents, searched exactly on a GPU: Flat"
        return Choice("Flat", "", 1.0, 0.0, reason)
    if len(vectors) < 1000:
        reason = f"a sample of {len(vectors)} vectors is too small to measure on: Flat"
        return Choice("Flat", "", 1.0, 0.0, reason)

    aim = 1 - (1 - recall_target) * LOSS
    order = np.random.default_rng(seed).permutation(len(vectors))
    num_queries = min(MOST_QUERIES, len(vectors) // 10)
    queries, documents = vectors[order[:num_queries]], vectors[order[num_queries:]]
    # Of a sample's vectors as many lie as near as of the corpus, times the share it is: at the full
    # depth a list would reach beyond what is near, and be harder to find than it will be.
    share = min(1.0, len(vectors) / num_documents)
    k = min(max(LEAST_DEPTH, round(depth * share)), len(documents) // 10)
    growth = max(1.0, min(shard_rows, num_documents) / len(vectors))
    flat = _fill("Flat", documents, threads)[0]
    bench = _Bench(flat, queries, _found(flat, queries, k, k, ""), k, growth)
    seconds = growth * statistics.median(bench.seconds(flat) for _ in range(REPETITIONS))
    trials, fastest = [Trial("Flat", "", 1.0, seconds, _bytes_per_vector(flat))], 1.0
    for factory, grids in _forms(vectors.shape[1], num_documents, len(documents)):
        index, half = _fill(factory, documents, threads)
        for grid in grids:
            parameters, recall = bench.cheapest(index, grid, aim)
            ratios = [bench.ratio(index, half, parameters)]
            # Nothing depends on how exactly a form that is not to be taken was timed.
            if recall >= aim and ratios[0] < HOPELESS * fastest:
                more = range(REPETITIONS - 1)
                ratios += [bench.ratio(index, half, parameters) for _ in more]
                fastest = min(fastest, statistics.median(ratios))
            taken = seconds * statistics.median(ratios)
            trials.append(Trial(factory, parameters, recall, taken, _bytes_per_vector(index)))
    return _best(trials, aim, k)


class _Bench:
    """What forms are measured with.

    Args:
        flat: exact search of the sample.
        queries: float32[q, d], held out of it.
        truth: as `_found` tells it of `flat`.
        k: the depth of `truth`.
        growth: of the sample, to what will be searched.
    """

    def __init__(
        self, flat: Index, queries: Float32, truth: NDArray[np.int64], k: int, growth: float
    ) -> None:
        self._flat, self._queries, self._truth, self._k = flat, queries, truth, k
        self._growth = growth
        timed = max(len(queries), min(TIMED_QUERIES, flat.ntotal))
        self._many = np.resize(queries, (timed, queries.shape[1]))
        self._fetch = min(k + max(10, k // 10), flat.ntotal)

    def cheapest(self, index: Index, grid: list[str], aim: float) -> tuple[str, float]:
        """The first setting that reaches a recall, or else the last, and its recall."""

        def recall(parameters: str) -> float:
            found = _found(index, self._queries, self._k, self._fetch, parameters)
            return _recall(found, self._truth)

        # The dearest first: codes may be too coarse for any number of lists.
        if (most := recall(grid[-1])) < aim:
            return grid[-1], most
        at = bisect.bisect_left(grid[:-1], aim, key=recall)
        return grid[at], recall(grid[at])

    def seconds(self, index: Index, parameters: str = "") -> float:
        """Wall seconds per query, of all queries at once."""
        begin = time.perf_counter()
        faiss_index.search(index, self._many, self._fetch, parameters)
        return (time.perf_counter() - begin) / len(self._many)

    def ratio(self, index: Index, half: Index, parameters: str) -> float:
        """See `expected`."""
        flat, whole = self.seconds(self._flat), self.seconds(index, parameters)
        some = self.seconds(half, parameters) if self._growth > 1 else 0.0
        return expected(flat, whole, some, self._growth)


def _forms(dimension: int, num_documents: int, sampled: int) -> list[tuple[str, list[list[str]]]]:
    """Lists forms with their grids of settings; within a grid recall grows, and the cost."""
    # About 2 * sqrt(n) lists, a power of two, with enough sampled vectors to train each: on 200k
    # real vectors 512, 1024 and 2048 lists reach recall .98 in 0.9, 0.9 and 1.7 s a block.
    wanted = 1 << round(math.log2(2 * math.sqrt(num_documents)))
    nlist = min(wanted, sampled // faiss_index.VECTORS_PER_LIST)
    probes = [f"nprobe={p}" for p in NPROBES if p <= nlist // 2]
    forms = []
    # Codes of 4 bits for 2, or for 4 dimensions: half the memory and time to scan, more to refine.
    codes = {n: f"PQ{dimension // n}x4fs,RFlat" for n in (2, 4) if dimension % n == 0}
    forms += [(code, [[f"k_factor_rf={f}" for f in K_FACTORS]]) for code in codes.values()]
    if probes and codes:
        for n, code in codes.items():
            factors = K_FACTORS_IN_LISTS[n]
            forms.append(
                (f"IVF{nlist},{code}", [[f"{p},k_factor_rf={f}" for p in probes] for f in factors])
            )
    elif probes:
        forms.append((f"IVF{nlist},Flat", [probes]))
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
        reason = f"recall@{k} {best.recall:.3f} on the sample, {gain:.1f} times Flat's speed"
    return Choice(
        best.factory,
        best.search_parameters,
        best.recall,
        best.seconds_per_query,
        reason,
        tuple(trials),
    )


def expected(flat: float, whole: float, half: float, growth: float) -> float:
    """Its seconds as a share of Flat's, where both hold `growth` times as many vectors as now.

    What finding lists, tables and refinement cost stays the same, what scanning costs grows. Flat
    only scans.

    Args:
        flat: seconds of Flat.
        whole: of a form of the same vectors.
        half: of the form with half of them.
        growth: at least 1.
    """
    scan = min(max(0.0, 2 * (whole - half)), whole)
    return (whole + scan * (growth - 1)) / (flat * growth)


def _fill(factory: str, documents: Float32, threads: int) -> tuple[Index, Index]:
    """An index of all documents, and one of half of them."""
    template, _ = faiss_index.train(factory, documents, threads)
    parts = documents, documents[: len(documents) // 2]
    return faiss_index.add(template, parts[0]), faiss_index.add(template, parts[1])


def _found(
    index: Index, queries: Float32, k: int, fetch: int, parameters: str
) -> NDArray[np.int64]:
    """(query << 32 | row) of the first k hits of every query, where `fetch` are searched for."""
    query, row, _ = faiss_index.search(index, queries, fetch, parameters)
    first = runs.within(np.bincount(query, minlength=len(queries))) < k
    return runs.pairs(query[first], row[first])


def _bytes_per_vector(index: Index) -> float:
    """Of the index, and of the raw vectors where it does not hold them itself."""
    beside = 4 * index.d if faiss_library.stored_vectors(index) is None else 0
    return faiss_files.size(index) / max(1, index.ntotal) + beside


def _recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    return float(np.isin(truth, found).mean())
