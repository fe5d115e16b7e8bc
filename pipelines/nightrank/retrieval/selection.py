"""`index.factory: auto`: chooses the index type by measurements on the user's vectors.

The rule. Up to `flat_rows` documents the index is Flat: it is exact, needs no training, and no
other type is faster at that size. It is also Flat at any size where FAISS has a GPU and lists are
short enough for it: half-precision products take an H100 some 6 to 9 ps a pair of 384 dimensions; a
CPU core takes 13 to 50 ns in the best type here. Otherwise a few types are built on the sample of
document vectors and searched with held-out vectors of the same sample, with exact search as the
truth. For every type the cheapest setting that reaches `recall_target` is found by bisection, and
timed. The fastest type is chosen if it is at least 1.1 times as fast as Flat; else Flat.

Why it is measured: the order of the types depends on the vectors and on their number. On 200,000
real MiniLM embeddings of passages, at recall .98, PQ codes with refinement are twice as fast as
Flat, the same codes in IVF lists, with a fifth of them probed, four times; IVF of whole vectors is
no faster than Flat (`benchmarks/results/retrieval.md`). On a quarter of the vectors PQ codes alone
were the fastest; on synthetic clusters IVF is ten times as fast, unlike on real data.

How it is measured. Exact search is a matrix product: with 256 queries at once it runs at a ninth of
its speed, so blocks of 4,096 are timed, as in a search. A search fetches a margin beyond `depth`,
so the types are measured with it. Each type is timed in alternation with Flat, since a machine's
speed varies: the median of the ratios counts. Lists gain with size, PQ codes alone do not: on
250,000 clustered vectors the codes were faster, on a million the lists, by 1.6 times. So each type
is timed on half of the sample too, which separates the cost that grows from the rest.

Documents take the place of queries, and their neighbours are easier to find: 128 of 1,024 lists
found .983 of a held-out document's hundred and .970 of a real query's. So a type may lose at most
half of what `recall_target` allows.

The choice is made once, when the template is trained, and is stored with it. It changes no score,
only which candidates are found.
"""

from __future__ import annotations

import bisect
import math
import statistics
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightrank.retrieval import faiss_files, faiss_index, faiss_library, ragged
from nightrank.retrieval.faiss_library import Index
from nightrank.retrieval.faiss_products import GPU_K

Float32 = NDArray[np.float32]

# Held-out vectors used as queries: recall@100 of 500 queries has a standard error below .005.
MOST_QUERIES = 500
# Queries timed at once; the held-out ones are repeated.
TIMED_QUERIES = 4096
# The depth shrinks with the sample, to this at least.
LEAST_DEPTH = 10
# An index type must gain more than timing noise and the cost of its training.
LEAST_GAIN = 1.1
# The share of the allowed loss of recall that held-out documents may show.
LOSS = 0.5
REPETITIONS = 3
K_FACTORS = (2, 4, 8, 16)
# For codes in lists, by dimensions per 4 bits: coarser codes need more refinement.
K_FACTORS_IN_LISTS = {2: (2, 4), 4: (4, 8)}
# Lists probed, in quarters of an octave: steps of half an octave cost up to 1.4 times the need.
NPROBES = [round(2 ** (step / 4)) for step in range(12, 80)]
# A type that takes this many times as long as the fastest, timed once, is not timed again.
HOPELESS = 1.3


@dataclass(frozen=True)
class Trial:
    """The measurements of one index type on the sample.

    Attributes:
        recall: mean share of the exact list of `depth` that was found, 0 to 1.
        seconds_per_query: for the largest future index shard: Flat's, times the ratio to Flat; the
            median of 3 measurements, or 1 measurement of a type that cannot be chosen.
        bytes_per_vector: of the index, and of the raw vectors that exact scores need.
    """

    factory: str
    search_parameters: str
    recall: float
    seconds_per_query: float
    bytes_per_vector: float = 0.0


@dataclass(frozen=True)
class Choice:
    """The chosen index type and the reason; `trials` is empty where nothing was measured."""

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
        shard_rows: documents of the largest index shard, for which speed is extrapolated.
        depth: recall is measured at this depth, times the sample's share of the documents, but at
            10 at least, or a tenth of the sample if that is less.
        recall_target: least recall, 0 to 1.
        flat_rows: Flat up to this many documents.
        threads: of FAISS.
        seed: of the split into held-out queries and indexed vectors.

    Returns:
        The choice. Measuring takes up to five times the sample's memory.

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
    # A sample has its share of a query's near vectors: at the full depth a list would reach beyond
    # them, and be harder to find than the list of a real search.
    share = min(1.0, len(vectors) / num_documents)
    k = min(max(LEAST_DEPTH, round(depth * share)), len(documents) // 10)
    growth = max(1.0, min(shard_rows, num_documents) / len(vectors))
    flat = _fill("Flat", documents, threads)[0]
    bench = _Bench(flat, queries, _hits(flat, queries, k, k, ""), k, growth)
    seconds = growth * statistics.median(bench.seconds(flat) for _ in range(REPETITIONS))
    trials, fastest = [Trial("Flat", "", 1.0, seconds, _bytes_per_vector(flat))], 1.0
    for factory, grids in _index_types(vectors.shape[1], num_documents, len(documents)):
        index, half = _fill(factory, documents, threads)
        for grid in grids:
            parameters, recall = bench.cheapest(index, grid, aim)
            ratios = [bench.ratio(index, half, parameters)]
            # The exact time of a type that cannot be chosen is not needed.
            if recall >= aim and ratios[0] < HOPELESS * fastest:
                repetitions = range(REPETITIONS - 1)
                ratios += [bench.ratio(index, half, parameters) for _ in repetitions]
                fastest = min(fastest, statistics.median(ratios))
            duration = seconds * statistics.median(ratios)
            trials.append(Trial(factory, parameters, recall, duration, _bytes_per_vector(index)))
    return _best(trials, aim, k)


class _Bench:
    """Measures recall and time of index types on a sample.

    Args:
        flat: the Flat index of the sample.
        queries: float32[q, d], held out of it.
        truth: the `_hits` of `flat`.
        k: the depth of `truth`.
        growth: size of the largest index shard, in samples.
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
        """The first setting that reaches the recall `aim`, else the last one; and its recall."""

        def recall(parameters: str) -> float:
            hits = _hits(index, self._queries, self._k, self._fetch, parameters)
            return _recall(hits, self._truth)

        # The most expensive first: codes may be too coarse for any number of lists.
        if (most := recall(grid[-1])) < aim:
            return grid[-1], most
        at = bisect.bisect_left(grid[:-1], aim, key=recall)
        return grid[at], recall(grid[at])

    def seconds(self, index: Index, parameters: str = "") -> float:
        """Wall-clock seconds per query, for all queries at once."""
        begin = time.perf_counter()
        faiss_index.search(index, self._many, self._fetch, parameters)
        return (time.perf_counter() - begin) / len(self._many)

    def ratio(self, index: Index, half: Index, parameters: str) -> float:
        """The `expected_ratio` to Flat, measured once."""
        flat, whole = self.seconds(self._flat), self.seconds(index, parameters)
        half_seconds = self.seconds(half, parameters) if self._growth > 1 else 0.0
        return expected_ratio(flat, whole, half_seconds, self._growth)


def _index_types(
    dimension: int, num_documents: int, sampled: int
) -> list[tuple[str, list[list[str]]]]:
    """Factory strings with grids of settings; within a grid recall and cost grow."""
    # About 2 * sqrt(n) lists, a power of two, with enough sampled vectors to train each: on 200k
    # real vectors 512, 1024 and 2048 lists reach recall .98 in 0.9, 0.9 and 1.7 s a block.
    nlist = 1 << round(math.log2(2 * math.sqrt(num_documents)))
    nlist = min(nlist, sampled // faiss_index.VECTORS_PER_LIST)
    probes = [f"nprobe={p}" for p in NPROBES if p <= nlist // 2]
    types = []
    # Codes of 4 bits for 2, or for 4 dimensions: half the memory and time to scan, more to refine.
    codes = {n: f"PQ{dimension // n}x4fs,RFlat" for n in (2, 4) if dimension % n == 0}
    types += [(code, [[f"k_factor_rf={f}" for f in K_FACTORS]]) for code in codes.values()]
    if probes and codes:
        for n, code in codes.items():
            factors = K_FACTORS_IN_LISTS[n]
            types.append(
                (f"IVF{nlist},{code}", [[f"{p},k_factor_rf={f}" for p in probes] for f in factors])
            )
    elif probes:
        types.append((f"IVF{nlist},Flat", [probes]))
    return types


def _best(trials: list[Trial], recall_target: float, k: int) -> Choice:
    flat = trials[0]
    fit = [t for t in trials if t.recall >= recall_target]
    best = min(fit, key=lambda t: t.seconds_per_query)
    if best.seconds_per_query * LEAST_GAIN > flat.seconds_per_query:
        best = flat
        reason = f"no index type reached recall@{k} {recall_target:g} "
        reason += f"at {LEAST_GAIN:g} times Flat's speed"
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


def expected_ratio(flat: float, whole: float, half: float, growth: float) -> float:
    """The time of an index type as a share of Flat's, with `growth` times as many vectors.

    The cost of finding lists, tables and refinement stays constant, the cost of scanning grows.
    Flat only scans.

    Args:
        flat: seconds of Flat.
        whole: seconds of the index type with the same vectors.
        half: seconds of the index type with half of them.
        growth: at least 1.
    """
    scan = min(max(0.0, 2 * (whole - half)), whole)
    return (whole + scan * (growth - 1)) / (flat * growth)


def _fill(factory: str, documents: Float32, threads: int) -> tuple[Index, Index]:
    """Indexes of all documents, and of half of them."""
    template, _ = faiss_index.train(factory, documents, threads)
    parts = documents, documents[: len(documents) // 2]
    return faiss_index.add(template, parts[0]), faiss_index.add(template, parts[1])


def _hits(index: Index, queries: Float32, k: int, fetch: int, parameters: str) -> NDArray[np.int64]:
    """(query << 32 | row) of the first k hits of every query, of `fetch` that are searched."""
    query, row, _ = faiss_index.search(index, queries, fetch, parameters)
    first = ragged.within(np.bincount(query, minlength=len(queries))) < k
    return ragged.pairs(query[first], row[first])


def _bytes_per_vector(index: Index) -> float:
    """Bytes of the index, and of the raw vectors where it does not hold them, per vector."""
    beside = 4 * index.d if faiss_library.stored_vectors(index) is None else 0
    return faiss_files.size(index) / max(1, index.ntotal) + beside


def _recall(hits: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    return float(np.isin(truth, hits).mean())
