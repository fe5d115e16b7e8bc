"""Scoring on a GPU: three sizes of cross-encoders with random weights.

    python -m benchmarks.gpu [--pairs 20000] --out benchmarks/results

MiniLM (6 layers of 384), XLM-R large (24 of 1,024; the 568 M of bge-reranker-v2-m3) and a 4 B
causal model (36 of 2,560, Qwen3's shape). Pairs are random token ids of realistic lengths (a query
of 5 to 20 tokens, a document of 30 to 490). They run through the engine that a worker uses, which
also assembles the pairs. Reported are pairs and tokens a second, the share of the FLOP/s of one
large bf16 product on the same device, milliseconds for 100 candidates of 250 tokens, and the ratio
to the loop of sentence-transformers' `predict` on the same model in bf16 (batches of 32 by length,
padded, `sdpa` attention; the loop gets token ids, so it does not tokenise).

`--tiny` runs two layers of each model on any device, as a test of the script.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.arguments import add_out
from benchmarks.reporting import machine, table
from nightrank.models.engines import torch_models
from nightrank.models.hardware import choose_device
from nightrank.models.text.inputs import Engine, SplicedInputs, run
from nightrank.models.text.splicing import Splicer, Template
from nightrank.storage.tokens import Tokens

# layers, width, inner width, width of keys and values, gated
Shape = tuple[int, int, int, int, bool]
SHAPES: dict[str, Shape] = {
    "MiniLM": (6, 384, 1536, 384, False),
    "568 M": (24, 1024, 4096, 1024, False),
    "4 B": (36, 2560, 9728, 1024, True),
}
VOCABULARY, LONGEST = 30_000, 512
SPLICER = Splicer(Template((2,), (3,), (3,), (0, 0, 0, 0, 0)), LONGEST, 0)


def model_of(name: str, shape: Shape, device: torch.device) -> Any:
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
    if name == "4 B":
        heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
        kind, config = "Qwen3", transformers.Qwen3Config(**common, **heads)
    elif name == "568 M":
        kind, config = "XLMRoberta", transformers.XLMRobertaConfig(**common, num_attention_heads=16)
    else:
        kind, config = "Bert", transformers.BertConfig(**common, num_attention_heads=12)
    with torch.device(device):
        model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    return model.to(torch.bfloat16).eval()


def engine_of(name: str, model: Any, device: torch.device) -> Engine:
    if name == "4 B":
        return torch_models.decoder_engine(model, device)
    return torch_models.headed_engine(model, device, name == "MiniLM", int(name == "568 M"))


@torch.inference_mode()
def plain(pairs: SplicedInputs, model: Any, device: torch.device) -> torch.Tensor:
    """Scores as `CrossEncoder.predict` does."""
    order, scores = np.argsort(-pairs.lengths, kind="stable"), []
    for begin in range(0, len(order), 32):
        batch = pairs.batch(order[begin : begin + 32])
        inside = np.arange(batch.input_ids.shape[1]) < batch.lengths[:, None]
        ids, mask = (torch.from_numpy(part).to(device) for part in (batch.input_ids, inside))
        logits = model(input_ids=ids.long(), attention_mask=mask.long()).logits
        scores.extend(logits[:, 0])
    return torch.stack(scores).float().cpu()


def flop(shape: Shape, lengths: np.ndarray) -> float:
    """FLOP of the linear layers and attention for inputs of these lengths, without embeddings."""
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
    """A pair for each document, with a random query."""
    pairs = np.stack(
        [random.integers(0, len(queries), len(documents)), np.arange(len(documents))], axis=1
    )
    return SplicedInputs(
        SPLICER, texts(queries, random), texts(documents, random), pairs.astype(np.int32)
    )


def seconds(work: Callable[[], Any], device: torch.device, times: int) -> list[float]:
    """Seconds of each repetition; the device is synchronised before and after."""
    durations = []
    for _ in range(times):
        if device.type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        durations.append(time.perf_counter() - begin)
    return durations


def peak(device: torch.device) -> float:
    """FLOP/s of one product of 8,192 x 8,192 in bf16 (1,024 on a CPU)."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / min(seconds(lambda: left @ right, device, 20))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--tiny", action="store_true")
    add_out(parser)
    args = parser.parse_args()
    device, random = choose_device(), np.random.default_rng(0)
    name = torch.cuda.get_device_name(0) if device.type == "cuda" else "cpu"
    peak_flops, rows = peak(device), []
    for model, full in SHAPES.items():
        shape: Shape = (2, *full[1:]) if args.tiny else full
        # The larger the model, the fewer pairs.
        count = max(200, args.pairs // (1 + shape[0] * shape[1] // 2304)) if not args.tiny else 8
        lengths = random.integers(5, 20, count), random.integers(30, 490, count)
        pairs = inputs(*lengths, random)
        hundred = inputs(np.full(1, 12), np.full(100, 235), random)
        network = model_of(model, shape, device)
        plain(hundred, network, device)
        loop_seconds = statistics.median(seconds(partial(plain, pairs, network, device), device, 3))
        engine = engine_of(model, network, device)
        begin = time.perf_counter()
        run(hundred, engine)
        first = time.perf_counter() - begin
        run(pairs, engine)
        durations = seconds(partial(run, pairs, engine), device, 5)
        median = statistics.median(durations)
        rows.append(
            {
                "model": model,
                "pairs": count,
                "pairs_per_second": count / median,
                "tokens_per_second": float(pairs.lengths.sum()) / median,
                "share_of_peak": flop(shape, pairs.lengths) / median / peak_flops,
                "spread": (max(durations) - min(durations)) / median,
                "hundred_ms": 1e3
                * statistics.median(seconds(partial(run, hundred, engine), device, 9)),
                "ratio": loop_seconds / median,
                "first_seconds": first,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
        del network, engine
    lines = [
        [
            row["model"],
            f"{row['pairs_per_second']:,.0f}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['share_of_peak']:.0%}",
            f"{row['hundred_ms']:.1f} ms",
            f"{row['ratio']:.1f}",
            f"{row['first_seconds']:.0f} s",
        ]
        for row in rows
    ]
    titles = ["", "pairs/s", "tokens/s", "of bf16 peak", "100 candidates of 250 tokens"]
    titles += ["times the plain loop", "first batch"]
    text = f"{name}, {peak_flops / 1e12:.0f} TFLOP/s in one large product.\n\n" + table(
        titles, lines
    )
    print(text)
    if args.out:
        result = {**machine(), "device": name, "peak_flops": peak_flops, "models": rows}
        (args.out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
        (args.out / "gpu.md").write_text(text)


if __name__ == "__main__":
    main()
