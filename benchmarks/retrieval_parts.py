"""Where the time of a search goes: the parts of `benchmarks.retrieval`."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import passages
from nightrank.retrieval import (
    bm25,
    bm25_search,
    faiss_index,
    faiss_library,
    first_stage,
    ranking,
    selection,
)
from nightrank.retrieval.first_stage import OpenShard, search_group
from nightrank.retrieval.hybrid_search import search_both
from nightrank.retrieval.terms import Analyzer
from nightrank.storage.tokens import Tokens

K = 100
# Queries of the loop over queries: enough for its rate.
LOOPED = 256


def measure(
    texts: passages.Texts,
    choice: selection.Choice,
    mine: OpenShard,
    exact: OpenShard,
    threads: int,
    rounds: int,
) -> dict[str, Any]:
    """The parts of a search, over one shard and over 8, with and without BM25."""
    analyze = Analyzer("english")
    documents, asked = analyze(texts.passages), analyze(texts.queries)
    counted = bm25.count([documents])
    postings = bm25.build(documents, counted, 0.9, 0.4)
    eight = []
    for rows in np.array_split(np.arange(len(texts.vectors)), 8):
        eight.append(open_shard("Flat", texts.vectors, rows, threads))
    queries, setting = texts.query_vectors, choice.search_parameters
    both = [dataclasses.replace(mine, postings=postings)]
    runs = {
        "ours, auto": lambda: search_group(queries, [mine], K, setting),
        "ours, Flat": lambda: search_group(queries, [exact], K),
        "ours, Flat, 8 shards": lambda: search_group(queries, eight, K),
        "ours, auto, with BM25": lambda: search_both(queries, asked, both, K, setting),
    }
    few = min(3, rounds)
    return {
        "parts": {name: shares(run, few) for name, run in runs.items()},
        "bm25": words(postings, asked, threads, few),
    }


def open_shard(factory: str, vectors: np.ndarray, rows: np.ndarray, threads: int) -> OpenShard:
    template, _ = faiss_index.train(factory, vectors[: 1 << 18], threads)
    mine = np.ascontiguousarray(vectors[rows]) if len(rows) < len(vectors) else vectors
    index = faiss_index.add(template, mine)
    stored = faiss_library.stored_vectors(index)
    names = pa.array(np.char.add("passage-", rows.astype(str)).tolist())
    return OpenShard(index, rows, names, mine if stored is None else stored)


@contextmanager
def timed(module: Any, name: str, into: list[float]) -> Iterator[None]:
    """Appends the seconds of each call of a function."""
    function = getattr(module, name)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            into.append(time.perf_counter() - begin)

    setattr(module, name, wrapper)
    try:
        yield
    finally:
        setattr(module, name, function)


def shares(run: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Seconds of a search, and the shares of FAISS, of merging and of all but FAISS."""
    durations = []
    for _ in range(rounds):
        searched: list[float] = []
        merged: list[float] = []
        begin = time.perf_counter()
        with (
            timed(faiss_index, "search", searched),
            timed(first_stage, "cut", merged),
            timed(ranking, "rank", merged),
        ):
            run()
        whole = time.perf_counter() - begin
        durations.append((whole, sum(searched), sum(merged)))
    whole, searched, merged = (statistics.median(column) for column in zip(*durations, strict=True))
    beside = (whole - searched) / searched
    return {"seconds": whole, "faiss": searched, "beside_faiss": beside, "merge": merged / whole}


def bm25_by_query(postings: bm25.Postings, queries: Tokens, depth: int) -> None:
    """BM25 by a loop over queries, the baseline of the search by blocks."""
    for query in range(len(queries)):
        scores = postings.scores(queries[query])
        rows = np.flatnonzero(scores > 0)
        if len(rows) > depth:
            positive = scores[rows]
            rows = rows[positive >= np.partition(positive, len(rows) - depth)[len(rows) - depth]]


def words(postings: bm25.Postings, terms: Tokens, threads: int, rounds: int) -> dict[str, Any]:
    """BM25 by blocks beside a loop over queries: queries a second and their ratio."""
    few, rates = terms.take(np.arange(0, len(terms), max(1, len(terms) // LOOPED))), []
    for _ in range(rounds):
        begin = time.perf_counter()
        bm25_by_query(postings, few, K)
        middle = time.perf_counter()
        bm25_search.search(postings, terms, K, threads)
        end = time.perf_counter()
        rates.append((len(few) / (middle - begin), len(terms) / (end - middle)))
    ratios = sorted(new / old for old, new in rates)
    old, new = (statistics.median(column) for column in zip(*rates, strict=True))
    spread = [ratios[0], ratios[-1]]
    return {"loop": old, "blocks": new, "ratio": statistics.median(ratios), "spread": spread}
