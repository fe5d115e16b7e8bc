"""The first stage beside FAISS used plainly and sentence-transformers, on real MiniLM vectors.

    python -m benchmarks.retrieval --cache CACHE [--data DATA] --out benchmarks/results [--quick]

Passages and queries come from `benchmarks.passages`: collections in BEIR layout where `--data` is
given, else docstrings. Every system answers all queries at once, k=100, in turns: a round is one
search by each, and what is told is the median over rounds of its ratio to FAISS Flat in the same
round. `ours` is `search_group` whole: fetching, exact scores, ties, ranking. Its plain rivals are
tuned on the same queries to the same recall, which flatters them.

`--synthetic N` measures N clustered vectors in place of passages, and neither BM25 nor shards.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from benchmarks import passages
from benchmarks.reporting import machine, table
from pipelines.retrieval import (
    bm25,
    bm25_search,
    faiss_index,
    faiss_library,
    first_stage,
    ranking,
    selection,
)
from pipelines.retrieval.first_stage import OpenShard, search_group
from pipelines.retrieval.hybrid_search import search_both
from pipelines.retrieval.terms import Analyzer
from pipelines.tokens import Tokens

K = 100
RECALL = 0.98
SEMANTIC_SEARCH = "sentence_transformers.util.semantic_search"
# Queries of the loop over queries that BM25 was: enough for its rate.
LOOPED = 256


class System:
    """One way to search: rows int64[q, k] of all queries; bytes it holds per vector."""

    def __init__(self, name: str, search: Callable[[], np.ndarray], size: float) -> None:
        self.name, self.search, self.bytes = name, search, size
        self.seconds: list[float] = []
        self.recall = 0.0

    def run(self, truth: np.ndarray | None) -> None:
        begin = time.perf_counter()
        rows = self.search()
        self.seconds.append(time.perf_counter() - begin)
        if truth is not None and not self.recall:
            self.recall = recall(rows, truth)


def recall(rows: np.ndarray, truth: np.ndarray) -> float:
    """Mean share of the exact rows that was found, on every eighth query."""
    return float(
        np.mean([np.isin(t, r).mean() for r, t in zip(rows[::8], truth[::8], strict=True)])
    )


def plain(factory: str, vectors: np.ndarray) -> Any:
    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[: 1 << 18])
    index.add(vectors)
    return index


def rivals(
    vectors: np.ndarray, queries: np.ndarray, truth: np.ndarray, hnsw: bool
) -> Iterator[System]:
    """FAISS by itself: every form at the cheapest setting that reaches `RECALL`, or its dearest."""
    dimension, count = vectors.shape[1], len(vectors)
    lists = min(1 << round(np.log2(2 * np.sqrt(count))), len(vectors[: 1 << 18]) // 39)
    probes = [8, 16, 32, 64, 96, 128, 192, 256, 384, 512]
    factors = [2, 4, 8, 16]
    forms = [
        (f"PQ{dimension // 2}x4fs,RFlat", [f"k_factor_rf={f}" for f in factors]),
        (f"PQ{dimension // 4}x4fs,RFlat", [f"k_factor_rf={f}" for f in factors]),
        (f"IVF{lists},Flat", [f"nprobe={p}" for p in probes]),
        (f"IVF{lists},PQ{dimension // 2}x4fs,RFlat", [f"nprobe={p},k_factor_rf=4" for p in probes]),
        ("HNSW32", [f"efSearch={e}" for e in (100, 200, 400)]),
    ]
    few = np.ascontiguousarray(queries[::8])
    for factory, settings in forms if hnsw else forms[:-1]:
        index = plain(factory, vectors)
        for setting in settings:
            faiss.ParameterSpace().set_index_parameters(index, setting)
            found = float(
                np.mean(
                    [
                        np.isin(t, r).mean()
                        for r, t in zip(index.search(few, K)[1], truth[::8], strict=True)
                    ]
                )
            )
            if found >= RECALL:
                break
        size = len(faiss.serialize_index(index)) / count
        yield System(
            f"faiss {factory} {setting}", lambda index=index: index.search(queries, K)[1], size
        )


def open_shard(factory: str, vectors: np.ndarray, rows: np.ndarray, threads: int) -> OpenShard:
    template, _ = faiss_index.train(factory, vectors[: 1 << 18], threads)
    mine = np.ascontiguousarray(vectors[rows]) if len(rows) < len(vectors) else vectors
    index = faiss_index.add(template, mine)
    stored = faiss_library.stored_vectors(index)
    names = pa.array(np.char.add("passage-", rows.astype(str)).tolist())
    return OpenShard(index, rows, names, mine if stored is None else stored)


def ours(
    name: str, shards: list[OpenShard], queries: np.ndarray, setting: str, size: float
) -> System:
    def search() -> np.ndarray:
        found = search_group(queries, shards, K, setting)
        return found["ordinal"].to_numpy().reshape(len(queries), -1)

    return System(name, search, size)


def semantic_search(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    import torch
    from sentence_transformers import util

    asked, corpus = torch.from_numpy(queries), torch.from_numpy(vectors)
    found = util.semantic_search(asked, corpus, top_k=K, score_function=util.dot_score)
    return np.array([[hit["corpus_id"] for hit in hits] for hits in found])


@contextmanager
def timed(module: Any, name: str, into: list[float]) -> Iterator[None]:
    """Adds up the seconds that a function takes."""
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
    """Seconds of a search, and the shares that FAISS, merging and all but FAISS have in it."""
    made = []
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
        made.append((whole, sum(searched), sum(merged)))
    whole, searched, merged = (statistics.median(column) for column in zip(*made, strict=True))
    beside = (whole - searched) / searched
    return {"seconds": whole, "faiss": searched, "beside_faiss": beside, "merge": merged / whole}


def old_bm25(postings: bm25.Postings, queries: Tokens, depth: int) -> None:
    """As it was: a query at a time."""
    for query in range(len(queries)):
        scores = postings.scores(queries[query])
        rows = np.flatnonzero(scores > 0)
        if len(rows) > depth:
            found = scores[rows]
            rows = rows[found >= np.partition(found, len(rows) - depth)[len(rows) - depth]]


def words(postings: bm25.Postings, terms: Tokens, threads: int, rounds: int) -> dict[str, Any]:
    """BM25 by blocks beside a loop over queries: queries a second, ratios by round."""
    few, rates = terms.take(np.arange(0, len(terms), max(1, len(terms) // LOOPED))), []
    for _ in range(rounds):
        begin = time.perf_counter()
        old_bm25(postings, few, K)
        middle = time.perf_counter()
        bm25_search.search(postings, terms, K, threads)
        end = time.perf_counter()
        rates.append((len(few) / (middle - begin), len(terms) / (end - middle)))
    ratios = sorted(new / old for old, new in rates)
    old, new = (statistics.median(column) for column in zip(*rates, strict=True))
    spread = [ratios[0], ratios[-1]]
    return {"loop": old, "blocks": new, "ratio": statistics.median(ratios), "spread": spread}


def clustered(count: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of 384 dimensions around 10,000 centres."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((10_000, 384), dtype=np.float32)

    def some(number: int) -> np.ndarray:
        made = generator.standard_normal((number, 384), dtype=np.float32)
        made += centres[generator.integers(0, len(centres), number)]
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        return made

    return some(count), some(queries)


def as_markdown(result: dict[str, Any]) -> str:
    titles = ["search", "queries/s", "of faiss Flat, median (spread)", "recall@100", "bytes/vector"]
    lines = [
        [
            row["name"],
            f"{row['queries_per_second']:,.0f}",
            f"{row['ratio']:.2f} ({row['spread'][0]:.2f} to {row['spread'][1]:.2f})",
            f"{row['recall']:.4f}",
            f"{row['bytes']:,.0f}",
        ]
        for row in result["systems"]
    ]
    text = f"{result['vectors']:,} {result['kind']} x {result['dimension']}, "
    text += f"{result['queries']:,} queries, k={K}, {result['rounds']} rounds\n\n"
    text += table(titles, lines) + f"\n`auto` chose: {result['auto']['reason']}.\n\n"
    trials = [
        [
            f"{trial['factory']} {trial['search_parameters']}",
            f"{1 / trial['seconds_per_query']:,.0f}",
            f"{trial['recall']:.4f}",
            f"{trial['bytes_per_vector']:,.0f}",
        ]
        for trial in result["auto"]["trials"]
    ]
    text += table(["trial of `auto`", "queries/s", "recall@100", "bytes/vector"], trials)
    if "parts" in result:
        columns = ["seconds", "of it FAISS", "beside FAISS", "merging"]
        rows = [
            [
                name,
                f"{one['seconds']:.2f}",
                f"{one['faiss']:.2f}",
                f"{one['beside_faiss']:.0%} of FAISS",
                f"{one['merge']:.1%}",
            ]
            for name, one in result["parts"].items()
        ]
        text += "\n" + table(["search", *columns], rows)
        both = result["bm25"]
        text += (
            f"\nBM25 alone, queries/s: {both['loop']:,.0f} by a loop over queries, "
            f"{both['blocks']:,.0f} by blocks, {both['ratio']:.2f} times "
            f"({both['spread'][0]:.2f} to {both['spread'][1]:.2f}).\n"
        )
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder of embedded texts")
    parser.add_argument("--data", type=Path, help="collections in BEIR layout")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--passages", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=passages.cpus())
    parser.add_argument("--hnsw", action="store_true")
    parser.add_argument("--synthetic", type=int, help="so many clustered vectors instead")
    parser.add_argument("--quick", action="store_true", help="20,000 passages, 1,024 queries")
    given = parser.parse_args()
    if given.quick:
        given.passages, given.queries, given.rounds = 20_000, 1024, 3
    faiss_library.use_threads(given.threads)
    texts = None
    if given.synthetic:
        vectors, queries = clustered(given.synthetic, given.queries)
    else:
        texts = passages.load(given.cache, given.data, given.passages, given.queries, given.threads)
        vectors, queries = texts.vectors, texts.query_vectors
    rows, size = np.arange(len(vectors)), 4.0 * vectors.shape[1]
    flat = plain("Flat", vectors)
    truth = flat.search(queries, K)[1]
    systems = [System("faiss Flat", lambda: flat.search(queries, K)[1], size)]
    systems += rivals(vectors, queries, truth, given.hnsw)
    if texts:
        systems.append(System(SEMANTIC_SEARCH, lambda: semantic_search(vectors, queries), size))
    flat_rows = min(50_000, len(vectors) - 1)
    begin = time.perf_counter()
    sample = vectors[:: -(-len(vectors) // (1 << 18))]
    choice = selection.choose(sample, len(vectors), K, RECALL, flat_rows, given.threads, 0)
    chosen = time.perf_counter() - begin
    sizes = {t.factory: t.bytes_per_vector for t in choice.trials}
    mine = open_shard(choice.factory, vectors, rows, given.threads)
    exact = open_shard("Flat", vectors, rows, given.threads)
    name = f"ours, auto: {choice.factory} {choice.search_parameters}"
    systems.append(ours(name, [mine], queries, choice.search_parameters, sizes[choice.factory]))
    systems.append(ours("ours, Flat", [exact], queries, "", size))
    for _ in range(given.rounds):
        for system in systems:
            system.run(truth)
    base = systems[0].seconds
    lines = []
    for system in systems:
        ratios = sorted(b / s for b, s in zip(base, system.seconds, strict=True))
        lines.append(
            {
                "name": system.name,
                "queries_per_second": len(queries) / statistics.median(system.seconds),
                "ratio": statistics.median(ratios),
                "spread": [ratios[0], ratios[-1]],
                "recall": system.recall,
                "bytes": system.bytes,
                "seconds": system.seconds,
            }
        )
    result: dict[str, Any] = {
        **machine(),
        "faiss": faiss.__version__,
        "numpy": np.__version__,
        "threads": given.threads,
        "kind": "clustered vectors" if given.synthetic else "MiniLM vectors of passages",
        "vectors": len(vectors),
        "dimension": vectors.shape[1],
        "queries": len(queries),
        "rounds": given.rounds,
        "systems": lines,
        "auto": {
            "seconds": chosen,
            "reason": choice.reason,
            "trials": [vars(trial) for trial in choice.trials],
        },
    }
    if texts:
        result |= parts(texts, choice, mine, exact, given.threads, given.rounds)
    given.out.mkdir(parents=True, exist_ok=True)
    stem = "retrieval-quick" if given.quick else "retrieval"
    stem += "-synthetic" if given.synthetic else ""
    (given.out / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n")
    (given.out / f"{stem}.md").write_text(as_markdown(result))
    print(as_markdown(result))


def parts(
    texts: passages.Texts,
    choice: selection.Choice,
    mine: OpenShard,
    exact: OpenShard,
    threads: int,
    rounds: int,
) -> dict[str, Any]:
    """What a search spends its time on, over one shard and over 8, with and without BM25."""
    import dataclasses

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


if __name__ == "__main__":
    main()
