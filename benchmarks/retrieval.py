"""The first stage beside FAISS used plainly and sentence-transformers, on real MiniLM vectors.

    python -m benchmarks.retrieval --cache CACHE [--data DATA] --out benchmarks/results [--quick]

Passages and queries come from `benchmarks.passages`: collections in BEIR layout if `--data` is
given, else docstrings. Each system searches all queries at once, k=100. A round is one search by
each system; reported is the median over rounds of the ratio to FAISS Flat in the same round. `ours`
is the whole `search_group`: fetching, exact scores, ties, ranking. Plain FAISS is tuned on the
measured queries, which favours it: to the target recall, and to the recall of `auto`, which is
tuned on documents alone.

`--synthetic N` measures N clustered vectors instead of passages, without BM25 and shards.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks import passages, retrieval_parts
from benchmarks.arguments import add_data, add_out
from benchmarks.reporting import machine, table
from benchmarks.retrieval_parts import K, open_shard
from nightrank.retrieval import faiss_library, selection
from nightrank.retrieval.first_stage import OpenShard, search_group

RECALL = 0.98
SEMANTIC_SEARCH = "sentence_transformers.util.semantic_search"


class System:
    """One way to search: rows int64 [q, k] of all queries; bytes of memory for each vector."""

    def __init__(self, name: str, search: Callable[[], np.ndarray], size: float) -> None:
        self.name, self.search, self.bytes = name, search, size
        self.seconds: list[float] = []
        self.recall = 0.0

    def run(self, truth: np.ndarray | None) -> None:
        begin = time.perf_counter()
        rows = self.search()
        self.seconds.append(time.perf_counter() - begin)
        if truth is not None and not self.recall:
            self.recall = overlap(rows[::8], truth[::8])


def overlap(rows: np.ndarray, truth: np.ndarray) -> float:
    """Mean share of the exact rows that `rows` has: the recall."""
    return float(np.mean([np.isin(t, r).mean() for r, t in zip(rows, truth, strict=True)]))


def plain(factory: str, vectors: np.ndarray) -> Any:
    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[: 1 << 18])
    index.add(vectors)
    return index


def plain_systems(
    vectors: np.ndarray, queries: np.ndarray, truth: np.ndarray, hnsw: bool, recalls: list[float]
) -> Iterator[System]:
    """Plain FAISS: each factory at the fastest settings that reach `recalls`, or the slowest."""
    dimension, count = vectors.shape[1], len(vectors)
    lists = min(1 << round(np.log2(2 * np.sqrt(count))), len(vectors[: 1 << 18]) // 39)
    probes = [8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
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
        size = len(faiss.serialize_index(index)) / count
        recalls_left = sorted(recalls)
        for setting in settings:
            faiss.ParameterSpace().set_index_parameters(index, setting)
            recall_reached = overlap(index.search(few, K)[1], truth[::8])
            if recall_reached < recalls_left[0] and setting != settings[-1]:
                continue
            yield System(f"faiss {factory} {setting}", plainly(index, setting, queries), size)
            recalls_left = [recall for recall in recalls_left if recall > recall_reached]
            if not recalls_left:
                break


def plainly(index: Any, setting: str, queries: np.ndarray) -> Callable[[], np.ndarray]:
    def search() -> np.ndarray:
        faiss.ParameterSpace().set_index_parameters(index, setting)
        return index.search(queries, K)[1]

    return search


def ours(
    name: str, shards: list[OpenShard], queries: np.ndarray, setting: str, size: float
) -> System:
    def search() -> np.ndarray:
        candidates = search_group(queries, shards, K, setting)
        return candidates["ordinal"].to_numpy().reshape(len(queries), -1)

    return System(name, search, size)


def semantic_search(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    import torch
    from sentence_transformers import util

    asked, corpus = torch.from_numpy(queries), torch.from_numpy(vectors)
    results = util.semantic_search(asked, corpus, top_k=K, score_function=util.dot_score)
    return np.array([[hit["corpus_id"] for hit in hits] for hits in results])


def clustered(count: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and queries, float32 [n, 384], of unit length around 10,000 centres."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((10_000, 384), dtype=np.float32)

    def draw(number: int) -> np.ndarray:
        vectors = generator.standard_normal((number, 384), dtype=np.float32)
        vectors += centres[generator.integers(0, len(centres), number)]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    return draw(count), draw(queries)


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
        columns = ["seconds", "in FAISS", "outside FAISS", "merging"]
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
    add_data(parser)
    add_out(parser, required=True)
    parser.add_argument("--passages", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=passages.cpus())
    parser.add_argument("--hnsw", action="store_true")
    parser.add_argument("--synthetic", type=int, metavar="N", help="N clustered vectors instead")
    parser.add_argument("--quick", action="store_true", help="20,000 passages, 1,024 queries")
    args = parser.parse_args()
    if args.quick:
        args.passages, args.queries, args.rounds = 20_000, 1024, 3
    faiss_library.use_threads(args.threads)
    texts = None
    if args.synthetic:
        vectors, queries = clustered(args.synthetic, args.queries)
    else:
        texts = passages.load(args.cache, args.data, args.passages, args.queries, args.threads)
        vectors, queries = texts.vectors, texts.query_vectors
    rows, size = np.arange(len(vectors)), 4.0 * vectors.shape[1]
    flat = plain("Flat", vectors)
    truth = flat.search(queries, K)[1]
    flat_rows = min(50_000, len(vectors) - 1)
    begin = time.perf_counter()
    sample = vectors[:: -(-len(vectors) // (1 << 18))]
    choice = selection.choose(
        sample, len(vectors), len(vectors), K, RECALL, flat_rows, args.threads, 0
    )
    chosen = time.perf_counter() - begin
    sizes = {t.factory: t.bytes_per_vector for t in choice.trials}
    mine = open_shard(choice.factory, vectors, rows, args.threads)
    exact = open_shard("Flat", vectors, rows, args.threads)
    name = f"ours, auto: {choice.factory} {choice.search_parameters}"
    auto = ours(name, [mine], queries, choice.search_parameters, sizes[choice.factory])
    auto.run(truth)
    systems = [System("faiss Flat", lambda: flat.search(queries, K)[1], size)]
    systems += plain_systems(vectors, queries, truth, args.hnsw, [RECALL, max(RECALL, auto.recall)])
    if texts:
        systems.append(System(SEMANTIC_SEARCH, lambda: semantic_search(vectors, queries), size))
    systems += [auto, ours("ours, Flat", [exact], queries, "", size)]
    auto.seconds.clear()
    for _ in range(args.rounds):
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
        "threads": args.threads,
        "kind": "clustered vectors" if args.synthetic else "MiniLM vectors of passages",
        "vectors": len(vectors),
        "dimension": vectors.shape[1],
        "queries": len(queries),
        "rounds": args.rounds,
        "systems": lines,
        "auto": {
            "seconds": chosen,
            "reason": choice.reason,
            "trials": [vars(trial) for trial in choice.trials],
        },
    }
    if texts:
        result |= retrieval_parts.measure(texts, choice, mine, exact, args.threads, args.rounds)
    stem = "retrieval-quick" if args.quick else "retrieval"
    stem += "-synthetic" if args.synthetic else ""
    (args.out / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / f"{stem}.md").write_text(as_markdown(result))
    print(as_markdown(result))


if __name__ == "__main__":
    main()
