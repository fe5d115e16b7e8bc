"""The built-in reranker beside sentence-transformers and transformers, on one set of pairs.

    python -m benchmarks.scoring [--data DATA] [--queries 30] [--rounds 3] --out benchmarks/results

Pairs: queries of 5 to 15 words, each with the 50 nearest (by the built-in bi-encoder) and 50 random
documents of 20 to 300 words, from collections in BEIR layout if `--data` is given, else the
questions of the quickstart over docstrings. Times include tokenisation and exclude loading; every
contestant uses all threads. The peers run the model as `nightrank export-model` writes it.

Compared are pairs a second in the same round; the largest difference to the fp32 scores of
sentence-transformers, as a share of their range; Spearman's rho and the overlap of the best 10,
means over queries; the share of the machine's own peak that the arithmetic reaches.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import side_by_side
from benchmarks.arguments import add_data, add_out
from benchmarks.reporting import machine, table
from benchmarks.side_by_side import Contestant
from benchmarks.texts import Texts, mixed
from nightrank.models import registry
from nightrank.models.text.tokenizers import minilm_splicer

os.environ.setdefault("HF_HUB_OFFLINE", "1")
NEAREST = OTHERS = 50
PEER, PEER_BEST, RAW = "sentence-transformers", "sentence-transformers bf16, sorted", "transformers"
OURS, EXACT, GENERAL = "ours bf16", "ours exact", "our general engine bf16"


def candidates(texts: Texts, threads: int) -> np.ndarray:
    """Pairs int32 [n, 2]: each query with its nearest documents and with random others."""
    resolved = registry.resolve_bi_encoder(registry.MINILM)
    tokenize = registry.load_tokenizer(resolved)
    model = registry.load_bi_encoder(resolved, threads)
    queries = model.encode(tokenize(texts.queries), "query")
    documents = model.encode(tokenize(texts.documents), "document")
    ranked = np.argsort(-(queries @ documents.T), axis=1, kind="stable")
    chance = np.random.default_rng(0)
    rows = [
        np.concatenate([row[:NEAREST], chance.permutation(row[NEAREST:])[:OTHERS]])
        for row in ranked
    ]
    query = np.repeat(np.arange(len(queries)), [len(row) for row in rows])
    return np.stack([query, np.concatenate(rows)], axis=1).astype(np.int32)


def ours(name: str, precision: str, texts: Texts, pairs: np.ndarray, threads: int) -> Contestant:
    resolved = registry.resolve_cross_encoder(registry.RERANKER, precision=precision)
    tokenize = registry.load_tokenizer(resolved)
    model = registry.load_cross_encoder(resolved, threads)
    return Contestant(name, lambda rows: _score(model, tokenize, texts, pairs[rows]))


def general(texts: Texts, pairs: np.ndarray) -> Contestant:
    """The engine of networks without a graph of their own in OpenVINO."""
    from nightrank.models.engines.cross_encoders import PairScorer
    from nightrank.models.engines.torch_models import interaction_engine
    from nightrank.models.folders import builtin

    engine = interaction_engine(builtin.minilm_folder(), builtin.RERANKER_FOLDER, "bf16")
    model = PairScorer(engine, minilm_splicer(256, pair=True))
    tokenize = registry.load_tokenizer(registry.resolve_cross_encoder(registry.RERANKER))
    return Contestant(GENERAL, lambda rows: _score(model, tokenize, texts, pairs[rows]), share=4)


def _score(model: Any, tokenize: Any, texts: Texts, pairs: np.ndarray) -> np.ndarray:
    """Tokenises each text of these pairs once and scores the pairs."""
    queries, query_rows = np.unique(pairs[:, 0], return_inverse=True)
    documents, document_rows = np.unique(pairs[:, 1], return_inverse=True)
    positions = np.stack([query_rows, document_rows], axis=1).astype(np.int32)
    return model.score(
        tokenize([texts.queries[q] for q in queries]),
        tokenize([texts.documents[d] for d in documents]),
        positions,
    )


def peers(folder: str, texts: Texts, pairs: np.ndarray, bf16: bool) -> list[Contestant]:
    import torch
    from sentence_transformers import CrossEncoder

    def whole(rows: Sequence[int]) -> list[tuple[str, str]]:
        return [(texts.queries[q], texts.documents[d]) for q, d in pairs[rows].tolist()]

    def opened(dtype: Any) -> Any:
        options = {"trust_remote_code": True, "device": "cpu", "model_kwargs": {"dtype": dtype}}
        with contextlib.redirect_stderr(io.StringIO()):
            return CrossEncoder(folder, **options)

    plain = opened(torch.float32)
    raw, tokenizer = plain.model, plain.tokenizer

    @torch.inference_mode()
    def transformers(rows: Sequence[int]) -> np.ndarray:
        """As model cards show it: batches in the order of the pairs, padded to the longest."""
        logits, texts_of_pairs = [], whole(rows)
        for begin in range(0, len(texts_of_pairs), 32):
            part = texts_of_pairs[begin : begin + 32]
            fields = tokenizer(
                [q for q, _ in part],
                [d for _, d in part],
                padding=True,
                truncation=True,
                max_length=256,
                return_tensors="pt",
            )
            logits.append(raw(**fields).logits[:, 0].numpy())
        return np.concatenate(logits)

    contestants = [
        Contestant(PEER, lambda rows: plain.predict(whole(rows), show_progress_bar=False)),
        Contestant(RAW, transformers, share=4),
    ]
    if bf16:
        half = opened(torch.bfloat16)

        def best(rows: Sequence[int]) -> np.ndarray:
            """It sorts by characters; sorted by tokens its batches need less padding."""
            texts_of_pairs = whole(rows)
            tokens = [len(ids) for ids in tokenizer([d for _, d in texts_of_pairs])["input_ids"]]
            order = np.argsort(tokens, kind="stable")
            scores = np.empty(len(texts_of_pairs), np.float32)
            scores[order] = half.predict(
                [texts_of_pairs[i] for i in order], show_progress_bar=False
            )
            return scores

        contestants.insert(1, Contestant(PEER_BEST, best))
    return contestants


def fidelity(contestant: Contestant, reference: Contestant, pairs: np.ndarray) -> dict[str, float]:
    """Differences of scores and of order to the reference."""
    from scipy.stats import spearmanr

    largest, rho, overlap = 0.0, [], []
    spread = np.ptp(np.concatenate([scores for _, scores in reference.results]))
    for (rows, scores), (reference_rows, expected) in zip(
        contestant.results, reference.results, strict=True
    ):
        expected = expected[np.searchsorted(reference_rows, rows)]
        largest = max(largest, float(np.abs(scores - expected).max()))
        for query in np.unique(pairs[rows, 0]):
            of = pairs[rows, 0] == query
            rho.append(spearmanr(scores[of], expected[of]).statistic)
            heads = (set(np.argsort(-part[of], kind="stable")[:10]) for part in (scores, expected))
            overlap.append(len(set.intersection(*heads)) / 10)
    return {
        "largest_difference_of_range": largest / float(spread),
        "spearman": float(np.mean(rho)),
        "top10_overlap": float(np.mean(overlap)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data(parser)
    parser.add_argument("--queries", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add_out(parser)
    args = parser.parse_args()
    import torch

    from nightrank.models.hardware import cpu_has_bf16
    from nightrank.training.exporting import export_model

    torch.set_num_threads(args.threads)
    texts = mixed(args.data, args.queries, random.Random(0))
    pairs = candidates(texts, args.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = f"{scratch}/model"
        with contextlib.redirect_stdout(io.StringIO()):
            export_model(registry.RERANKER, Path(folder))
        contestants = peers(folder, texts, pairs, cpu_has_bf16())
    contestants.append(ours(EXACT, "exact", texts, pairs, args.threads))
    if cpu_has_bf16():
        contestants.append(general(texts, pairs))
        contestants.append(ours(OURS, "bf16", texts, pairs, args.threads))
    for contestant in contestants:
        contestant.run(np.arange(32))  # the first batch compiles kernels
    # Rounds of whole queries, so that lists can be compared.
    parts = np.array_split(np.arange(len(texts.queries)), args.rounds)
    rounds = [np.flatnonzero(np.isin(pairs[:, 0], part)) for part in parts]
    side_by_side.measure(contestants, rounds)
    report(args, texts, pairs, contestants)


def report(
    args: argparse.Namespace, texts: Texts, pairs: np.ndarray, contestants: list[Contestant]
) -> None:
    tokenize = registry.load_tokenizer(registry.resolve_cross_encoder(registry.RERANKER))
    lengths = minilm_splicer(256, pair=True).lengths(
        tokenize(texts.queries).lengths[pairs[:, 0]], tokenize(texts.documents).lengths[pairs[:, 1]]
    )
    flop = side_by_side.minilm_flop(lengths) / len(lengths)
    peaks = {"fp32": side_by_side.gemm_peak("fp32", args.threads)}
    if any("bf16" in one.name for one in contestants):
        peaks["bf16"] = side_by_side.gemm_peak("bf16", args.threads)
    rows = side_by_side.ratios_of(contestants)
    for row, one in zip(rows, contestants, strict=True):
        row |= fidelity(one, contestants[0], pairs)
        row["share_of_peak"] = (
            row["per_second"] * flop / peaks["bf16" if "bf16" in one.name else "fp32"]
        )
    result = {
        **machine(),
        "threads": args.threads,
        "pairs": len(pairs),
        "mean_tokens": float(lengths.mean()),
        "peak_flops": peaks,
        "contestants": rows,
    }
    names = [one.name for one in contestants]
    shown = [PEER, *([PEER_BEST] if PEER_BEST in names else [])]
    lines = [
        [
            row["name"],
            f"{row['per_second']:.1f}",
            *(side_by_side.ratio(row, peer) for peer in shown),
            f"{row['share_of_peak']:.0%}",
            f"{row['largest_difference_of_range']:.1e}",
            f"{row['spearman']:.4f}",
            f"{row['top10_overlap']:.3f}",
        ]
        for row in rows
    ]
    titles = ["", "pairs/s", *(f"vs {peer}" for peer in shown), "of peak", "largest difference"]
    text = (
        f"{len(pairs):,} pairs, {lengths.mean():.0f} tokens on average (median"
        f" {np.median(lengths):.0f}, at most {lengths.max()}), {args.rounds} rounds,"
        f" {args.threads} threads; one large product reaches "
        + ", ".join(f"{value / 1e9:.0f} GFLOP/s in {name}" for name, value in peaks.items())
        + ".\n\n"
        + table([*titles, "Spearman", "same best 10"], lines)
    )
    print(text)
    if args.out:
        (args.out / "scoring.md").write_text(text)
        (args.out / "scoring.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
