"""Scoring on a GPU: three sizes of cross-encoders with random weights.

    python -m benchmarks.gpu [--pairs 20000] --out benchmarks/results

MiniLM (6 layers of 384), XLM-R large (24 of 1,024; the 568 M of bge-reranker-v2-m3) and a 4 B
causal model (36 of 2,560, Qwen3's shape). Pairs are token ids by chance, of the lengths that real
ones have (a query of 5 to 20 tokens, a document of 30 to 490), through the engine that a worker
uses, splicing included. What is told: pairs and tokens a second, the share of the device's own
bf16 product of two large matrices, and milliseconds for 100 candidates of 250 tokens.

`--tiny` runs two layers of each on whatever device there is, to see that it runs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.reporting import machine, table
from pipelines.models import torch_models
from pipelines.models.hardware import choose_device
from pipelines.models.inputs import Engine, SplicedInputs, run
from pipelines.models.splicing import Splicer, Template
from pipelines.tokens import Tokens

# layers, width, inner width, width of keys and values, gated
Shape = tuple[int, int, int, int, bool]
SHAPES: dict[str, Shape] = {
    "MiniLM": (6, 384, 1536, 384, False),
    "568 M": (24, 1024, 4096, 1024, False),
    "4 B": (36, 2560, 9728, 1024, True),
}
VOCABULARY, LONGEST = 30_000, 512
SPLICER = Splicer(Template((2,), (3,), (3,), (0, 0, 0, 0, 0)), LONGEST, 0)


def opened(name: str, shape: Shape, device: torch.device) -> Engine:
    import transformers

    layers, width, inner, _, _ = shape
    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "intermediate_size": inner,
        "max_position_embeddings": LONGEST + 8,
        "num_labels": 1,
        "pad_token_id": 0,
    }
    dtype = torch.bfloat16
    with torch.device(device):
        if name == "4 B":
            config = transformers.Qwen3Config(
                **common, num_attention_heads=32, num_key_value_heads=8, head_dim=128
            )
            model = transformers.Qwen3ForSequenceClassification(config).to(dtype).eval()
            return torch_models.decoder_engine(model, device)
        if name == "568 M":
            config = transformers.XLMRobertaConfig(**common, num_attention_heads=16)
            model = transformers.XLMRobertaForSequenceClassification(config).to(dtype).eval()
            return torch_models.headed_engine(model, device, False, 1)
        config = transformers.BertConfig(**common, num_attention_heads=12)
        model = transformers.BertForSequenceClassification(config).to(dtype).eval()
        return torch_models.headed_engine(model, device, True, 0)


def flop(shape: Shape, lengths: np.ndarray) -> float:
    """Of the linear layers and of attention, for inputs of these lengths; embeddings are free."""
    layers, width, inner, narrow, gated = shape
    # Queries and the output have the keys' width times as many heads: 4,096 in Qwen3's 4 B.
    wide = 4096 if gated else width
    products = 2 * width * wide + 2 * width * narrow + (3 if gated else 2) * width * inner
    lengths = lengths.astype(np.float64)
    attention = 4 * wide * lengths**2 * (0.5 if gated else 1.0)  # causal: half of it
    return float(layers * (2 * products * lengths + attention).sum())


def texts(lengths: np.ndarray, random: np.random.Generator) -> Tokens:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Tokens(random.integers(5, VOCABULARY, offsets[-1]).astype(np.int32), offsets)


def inputs(
    queries: np.ndarray, documents: np.ndarray, random: np.random.Generator
) -> SplicedInputs:
    """Every document with a query by chance."""
    pairs = np.stack(
        [random.integers(0, len(queries), len(documents)), np.arange(len(documents))], axis=1
    )
    return SplicedInputs(
        SPLICER, texts(queries, random), texts(documents, random), pairs.astype(np.int32)
    )


def seconds(work: Callable[[], Any], device: torch.device, times: int) -> float:
    """The least of several times; the device is done at both ends."""
    best = float("inf")
    for _ in range(times):
        if device.type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return best


def peak(device: torch.device) -> float:
    """FLOP/s of one product of 8,192 x 8,192 in bf16 (1,024 on a CPU)."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / seconds(lambda: left @ right, device, 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device, random = choose_device(), np.random.default_rng(0)
    name = torch.cuda.get_device_name(0) if device.type == "cuda" else "cpu"
    most, rows = peak(device), []
    for model, full in SHAPES.items():
        shape: Shape = (2, *full[1:]) if args.tiny else full
        engine = opened(model, shape, device)
        # The larger the model, the fewer pairs measure it.
        count = max(200, args.pairs // (1 + shape[0] * shape[1] // 2304)) if not args.tiny else 8
        lengths = random.integers(5, 20, count), random.integers(30, 490, count)
        given = inputs(*lengths, random)
        hundred = inputs(np.full(1, 12), np.full(100, 235), random)
        run(hundred, engine)
        took = seconds(partial(run, given, engine), device, 3)
        rows.append(
            {
                "model": model,
                "pairs_per_second": count / took,
                "tokens_per_second": float(given.lengths.sum()) / took,
                "share_of_peak": flop(shape, given.lengths) / took / most,
                "hundred_ms": 1e3 * seconds(partial(run, hundred, engine), device, 5),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    lines = [
        [
            row["model"],
            f"{row['pairs_per_second']:,.0f}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['share_of_peak']:.0%}",
            f"{row['hundred_ms']:.0f} ms",
        ]
        for row in rows
    ]
    titles = ["", "pairs/s", "tokens/s", "of bf16 peak", "100 candidates of 250 tokens"]
    told = f"{name}, {most / 1e12:.0f} TFLOP/s in one large product.\n\n" + table(titles, lines)
    print(told)
    if args.out:
        result = {**machine(), "device": name, "peak_flops": most, "models": rows}
        (args.out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
        (args.out / "gpu.md").write_text(told)


if __name__ == "__main__":
    main()
