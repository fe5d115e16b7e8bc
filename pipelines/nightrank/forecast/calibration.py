"""A few seconds of real work on this machine: models on sampled inputs, searching.

Rates are in core-seconds, so that they can be spread over any number of workers of the same kind:
CPU time, which other work on the machine hardly changes, where wall time depends on it. Models
have a worker's threads, which wait for each other; on a GPU its seconds are counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightrank.config.schema import Bm25
from nightrank.datasets.vectors import to_table
from nightrank.forecast.hardware import SEARCH_EFFICIENCY, Device
from nightrank.forecast.miniature import parquet_bytes
from nightrank.forecast.tokens_sample import Load, Texts, padded_tokens
from nightrank.models.folders.network_size import Network
from nightrank.models.hardware import has_bf16, has_cuda
from nightrank.models.protocols import ResolvedModel
from nightrank.models.registry import load_bi_encoder, load_cross_encoder
from nightrank.retrieval import (
    bm25,
    bm25_search,
    faiss_index,
    faiss_library,
    first_stage,
    hybrid_search,
)
from nightrank.retrieval.carried_lists import kept_rows
from nightrank.retrieval.terms import Analyzer
from nightrank.storage.tokens import Tokens

CPU_BUDGET, GPU_BUDGET = 4096, 65_536  # Padded tokens of a batch.
THREADS = 1  # Of what is no model.
ENOUGH_SECONDS = 1.0  # Of a model's work: a rate is then good to some 5 % on a quiet machine.
FIRST, MOST = 16, 4096
VECTOR_FLOATS, SMALL_ROWS, LARGE_ROWS, BLOCK = 8_000_000, 4_000, 16_000, 256
# Whole search of 200,000 vectors of passages beside Flat, as `auto` chose (results/retrieval.md).
APPROXIMATE_GAIN = 3.2
SEED = 20_26
# Of short searches, whose small difference is scaled: the best of two varied fourfold when busy.
ROUNDS = 5


@dataclass(frozen=True)
class Rate:
    """What an input costs a model.

    Attributes:
        seconds: of a core (or of a GPU, see `on_gpu`) an input.
        load_seconds: until the model is ready in a fresh worker.
        on_gpu: whether these are a GPU's seconds.
    """

    seconds: float
    load_seconds: float
    on_gpu: bool


def budget_of(device: Device | None) -> int:
    """Padded tokens of a batch, where the plan is for."""
    return GPU_BUDGET if device or has_cuda() else CPU_BUDGET


def from_table(device: Device, network: Network, load: Load, precision: str) -> Rate:
    """The rate of a GPU that is not here, by operations; loading by the weights' bytes."""
    flops = network.flops(load.lengths) / max(1, len(load.lengths))
    padding = load.padded / max(1.0, load.real) if precision == "fp32" else 1.0
    seconds = flops * padding / (device.flops(precision) * network.efficiency)
    return Rate(seconds, 10.0 + network.weights(precision) / 1e9, True)


def time_encoder(
    model: ResolvedModel, tokens: Tokens, lengths: NDArray[np.int64], load: Load, threads: int
) -> tuple[Rate, float]:
    """An encoder's rate a document, and the bytes of one of its stored vectors.

    Args:
        model: the encoder.
        tokens: sampled documents as stored.
        lengths: int64 [n], their inputs' lengths.
        load: what those are for all.
        threads: of a worker.
    """
    began = time.process_time()
    opened = load_bi_encoder(_as_here(model), threads)
    opening = time.process_time() - began
    vectors: list[NDArray[np.float32]] = []

    def work(rows: NDArray[np.int64]) -> None:
        vectors[:] = [opened.encode(tokens.take(rows), "document")]

    seconds = _seconds_per_token(work, lengths, budget_of(None)) * load.padded
    return Rate(seconds, opening, has_cuda()), vector_bytes(vectors[0])


def time_reranker(
    model: ResolvedModel, texts: Texts, pairs: NDArray[np.int32], load: Load, threads: int
) -> Rate:
    """A cross-encoder's rate a pair; `pairs` int32 [n, 2] are those of the load."""
    began = time.process_time()
    opened = load_cross_encoder(_as_here(model), threads)
    opening = time.process_time() - began
    queries, documents = texts.queries.tokens, texts.documents.tokens

    def work(rows: NDArray[np.int64]) -> None:
        opened.score(queries, documents, pairs[rows])

    seconds = _seconds_per_token(work, load.lengths, budget_of(None)) * load.padded
    return Rate(seconds, opening, has_cuda())


def _as_here(model: ResolvedModel) -> ResolvedModel:
    """A model planned for workers that can do more than this machine."""
    return model if model.precision == "fp32" or has_bf16() else replace(model, precision="fp32")


def _seconds_per_token(
    work: Callable[[NDArray[np.int64]], None], lengths: NDArray[np.int64], budget: int
) -> float:
    """Seconds of a core, or of the GPU, a padded token; ever more inputs until one was spent."""
    clock = time.perf_counter if has_cuda() else time.process_time
    count, draw = FIRST, np.random.default_rng(SEED)
    while True:
        rows = draw.integers(0, len(lengths), count)
        work(rows)  # Shapes that were never seen are set up at their first use.
        began = clock()
        work(rows)
        seconds = clock() - began
        if seconds * 2 >= ENOUGH_SECONDS or count >= MOST:
            return seconds / padded_tokens(lengths[rows], budget)
        count = min(MOST, count * max(2, min(8, int(ENOUGH_SECONDS / max(seconds, 1e-3)))))


def vector_bytes(vectors: NDArray[np.float32]) -> float:
    """Bytes of a vector as the lake stores it; vectors float32 [n, d]."""
    table = to_table(np.arange(len(vectors), dtype=np.int32), vectors)
    return (parquet_bytes(table) - parquet_bytes(table.slice(0, 0))) / max(1, len(vectors))


def random_vectors(rows: int, dimension: int) -> NDArray[np.float32]:
    """Unit vectors, float32 [rows, dimension]: they compress as little as real ones."""
    drawn = np.random.default_rng(SEED).standard_normal((rows, dimension), dtype=np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@dataclass(frozen=True)
class Searching:
    """Core-seconds of the first stage.

    Attributes:
        query: of a query, whatever it is searched in.
        dense: of a query and a document more, by vectors.
        bm25: of a query and a document more, by terms.
        add: of a document that is added to an index.
    """

    query: float
    dense: float
    bm25: float
    add: float

    @staticmethod
    def gpu_seconds(device: Device, dimension: int) -> float:
        """Seconds of a GPU a query and document, exact search in half precision."""
        return 2.0 * dimension / (device.flops("bf16") * SEARCH_EFFICIENCY)


def time_search(
    documents: pa.Table, queries: pa.Table, dimension: int, depth: int, settings: Bm25
) -> Searching:
    """Searches the sample's terms and random vectors, few documents and four times as many."""
    faiss_library.use_threads(THREADS)
    large = max(200, min(LARGE_ROWS, VECTOR_FLOATS // dimension))
    small = min(SMALL_ROWS, large // 4)
    asked = random_vectors(BLOCK, dimension)
    terms, query_terms = None, None
    if settings.weight:
        analyzer = Analyzer(settings.language)
        terms = analyzer(documents["text"].combine_chunks())
        analyzed = analyzer(queries["text"].combine_chunks())
        query_terms = analyzed.take(np.arange(BLOCK) % len(analyzed))
    spent = []
    for rows in (small, large):
        vectors = random_vectors(rows, dimension)
        began = time.process_time()
        template, _ = faiss_index.train("Flat", vectors[:0], THREADS)
        index, _ = faiss_index.build(template, vectors)
        adding = time.process_time() - began
        postings = None
        if terms is not None:
            tiled = terms.take(np.arange(rows) % len(terms))
            postings = bm25.build(tiled, bm25.count([tiled]), k1=settings.k1, b=settings.b)
        ids = pa.array([f"document-{row}" for row in range(rows)])
        places = np.arange(rows, dtype=np.int64)
        shard = first_stage.OpenShard(index, places, ids, vectors, postings)
        kept = min(kept_rows(depth), rows)
        spent.append((rows, *_search_seconds(asked, query_terms, shard, kept), adding))
    (few, dense_few, bm25_few, both_few, _), (many, dense_many, bm25_many, _, adding) = spent
    dense = max(0.0, dense_many - dense_few) / (many - few)
    lexical = max(0.0, bm25_many - bm25_few) / (many - few)
    alone = max(0.0, both_few - (dense + lexical) * few)
    return Searching(alone / BLOCK, dense / BLOCK, lexical / BLOCK, adding / many)


def _search_seconds(
    asked: NDArray[np.float32], terms: Tokens | None, shard: first_stage.OpenShard, depth: int
) -> tuple[float, float, float]:
    """Core-seconds of a block by vectors alone, by BM25 alone and by both; the best of `ROUNDS`.

    BM25 is timed alone, since what it adds to both is less than what vectors' times vary by.
    """
    dense, lexical, both = [], [], []
    for _ in range(ROUNDS):
        dense.append(_seconds(lambda: first_stage.search_group(asked, [shard], depth)))
        if terms is not None and (postings := shard.postings):
            lexical.append(_seconds(lambda: bm25_search.search(postings, terms, depth, THREADS)))
            both.append(_seconds(lambda: hybrid_search.search_both(asked, terms, [shard], depth)))
    return min(dense), min(lexical, default=0.0), min(both, default=min(dense))


def _seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began
