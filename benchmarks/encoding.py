"""The built-in bi-encoder beside sentence-transformers, on one set of documents.

    python -m benchmarks.encoding [--data DATA] [--documents 1500] [--rounds 3] --out ...

Documents of 20 to 300 words as in `benchmarks.scoring`. Times include tokenisation and exclude
loading; every contestant uses all threads. Compared are documents a second in the same round; the
least cosine with the fp32 vectors of sentence-transformers; the overlap of each document's 10
nearest neighbours among the documents of the round; the share of the machine's own peak.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import side_by_side
from benchmarks.arguments import add_data, add_out
from benchmarks.reporting import machine, table
from benchmarks.side_by_side import Contestant
from benchmarks.texts import mixed
from nightrank.models import registry
from nightrank.models.folders import builtin
from nightrank.models.hardware import cpu_has_bf16
from nightrank.models.text.tokenizers import minilm_splicer

os.environ.setdefault("HF_HUB_OFFLINE", "1")
PEER, PEER_BEST = "sentence-transformers", "sentence-transformers bf16"
NEIGHBOURS = 10


def ours(precision: str, documents: list[str], threads: int) -> Contestant:
    resolved = registry.resolve_bi_encoder(registry.MINILM, precision=precision)
    tokenize = registry.load_tokenizer(resolved)
    model = registry.load_bi_encoder(resolved, threads)

    def encode(rows: Sequence[int]) -> np.ndarray:
        return model.encode(tokenize([documents[row] for row in rows]), "document")

    return Contestant(f"ours {precision}", encode)


def peer(name: str, dtype: Any, documents: list[str]) -> Contestant:
    from sentence_transformers import SentenceTransformer

    folder = str(builtin.minilm_folder())
    with contextlib.redirect_stderr(io.StringIO()):
        model = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": dtype})

    def encode(rows: Sequence[int]) -> np.ndarray:
        vectors = model.encode([documents[row] for row in rows], show_progress_bar=False)
        return np.asarray(vectors, np.float32)

    return Contestant(name, encode)


def neighbours(vectors: np.ndarray) -> np.ndarray:
    """int [n, 10]: rows of each vector's nearest other vectors."""
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -np.inf)
    return np.argpartition(-cosine, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]


def fidelity(contestant: Contestant, reference: Contestant) -> dict[str, float]:
    least, overlap = 1.0, []
    for (_, vectors), (_, expected) in zip(contestant.results, reference.results, strict=True):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        least = min(least, float((unit * expected).sum(axis=1).min()))
        both = zip(neighbours(unit), neighbours(expected), strict=True)
        overlap += [len(np.intersect1d(a, b)) / NEIGHBOURS for a, b in both]
    return {"least_cosine": least, "neighbour_overlap": float(np.mean(overlap))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data(parser)
    parser.add_argument("--documents", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add_out(parser)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    documents = mixed(args.data, 0, random.Random(0)).documents
    order = np.random.default_rng(0).permutation(len(documents))[: args.documents]
    contestants = [peer(PEER, torch.float32, documents), ours("exact", documents, args.threads)]
    if cpu_has_bf16():
        contestants.append(peer(PEER_BEST, torch.bfloat16, documents))
        contestants.append(ours("bf16", documents, args.threads))
    for contestant in contestants:
        contestant.run(order[:32])  # the first batch compiles kernels
    side_by_side.measure(contestants, np.array_split(order, args.rounds))
    report(args, [documents[row] for row in order], contestants)


def report(args: argparse.Namespace, documents: list[str], contestants: list[Contestant]) -> None:
    tokenize = registry.load_tokenizer(registry.resolve_bi_encoder(registry.MINILM))
    lengths = minilm_splicer(256, pair=False).lengths(tokenize(documents).lengths)
    flop = side_by_side.minilm_flop(lengths) / len(lengths)
    rows = side_by_side.ratios_of(contestants)
    for row, contestant in zip(rows, contestants, strict=True):
        peak = side_by_side.gemm_peak("bf16" if "bf16" in contestant.name else "fp32", args.threads)
        row |= {
            **fidelity(contestant, contestants[0]),
            "share_of_peak": row["per_second"] * flop / peak,
        }
    result = {
        **machine(),
        "threads": args.threads,
        "documents": len(documents),
        "mean_tokens": float(lengths.mean()),
        "contestants": rows,
    }
    peers = [contestant.name for contestant in contestants if contestant.name in (PEER, PEER_BEST)]
    lines = [
        [
            row["name"],
            f"{row['per_second']:.1f}",
            *(side_by_side.ratio(row, name) for name in peers),
            f"{row['share_of_peak']:.0%}",
            f"{row['least_cosine']:.6f}",
            f"{row['neighbour_overlap']:.3f}",
        ]
        for row in rows
    ]
    titles = ["", "documents/s", *(f"vs {name}" for name in peers), "of peak", "least cosine"]
    text = (
        f"{len(documents):,} documents, {lengths.mean():.0f} tokens on average, {args.rounds}"
        f" rounds, {args.threads} threads.\n\n" + table([*titles, "same 10 neighbours"], lines)
    )
    print(text)
    if args.out:
        (args.out / "encoding.md").write_text(text)
        (args.out / "encoding.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
