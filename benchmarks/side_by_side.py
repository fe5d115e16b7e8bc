"""Runs contestants on the same work and compares their rates.

On a shared machine times vary, and ratios within one round vary less. In each round all contestants
do the same work, one after another. Reported is the median over rounds of the ratio to the first
contestant's rate in the same round, with the lowest and the highest.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Run = Callable[[Sequence[int]], Any]


@dataclass(eq=False)
class Contestant:
    """One way to do the work.

    Attributes:
        name: in the table.
        run: does the items at these positions and returns a result.
        share: runs every n-th item only, for a slow contestant.
        rates: items a second of each round.
        results: positions and result of each round.
    """

    name: str
    run: Run
    share: int = 1
    rates: list[float] = field(default_factory=list)
    results: list[tuple[np.ndarray, Any]] = field(default_factory=list)


def measure(contestants: list[Contestant], rounds: list[np.ndarray]) -> None:
    """Runs all rounds.

    Args:
        contestants: the first is the reference of the ratios.
        rounds: positions of each round's items.
    """
    for number, items in enumerate(rounds):
        for contestant in contestants:
            positions = items[:: contestant.share]
            begin = time.perf_counter()
            result = contestant.run(positions)
            contestant.rates.append(len(positions) / (time.perf_counter() - begin))
            contestant.results.append((positions, result))
            print(
                f"round {number + 1}: {contestant.name}: {contestant.rates[-1]:.1f}/s",
                file=sys.stderr,
            )


def ratios_of(contestants: list[Contestant]) -> list[dict[str, Any]]:
    """The median rate of each contestant, and its ratios to all contestants by name."""
    rows = []
    for one in contestants:
        row: dict[str, Any] = {"name": one.name, "per_second": statistics.median(one.rates)}
        for peer in contestants:
            ratios = [a / b for a, b in zip(one.rates, peer.rates, strict=True)]
            row[f"vs {peer.name}"] = [statistics.median(ratios), min(ratios), max(ratios)]
        rows.append(row)
    return rows


def ratio(row: dict[str, Any], peer: str) -> str:
    """A cell of the table: the median ratio, with the lowest and the highest."""
    median, low, high = row[f"vs {peer}"]
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def gemm_peak(dtype: str, threads: int) -> float:
    """FLOP/s of one large matrix product on this machine: the peak that shares refer to."""
    import torch

    torch.set_num_threads(threads)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    rows, inner, outer = 4096, 384, 1536
    left, right = torch.randn(rows, inner).to(kind), torch.randn(outer, inner).to(kind)
    packed = torch.ops.mkldnn._reorder_linear_weight(right, rows)
    best = float("inf")
    for _ in range(12):
        begin = time.perf_counter()
        torch.ops.mkldnn._linear_pointwise(left, packed, None, "none", [], "")
        best = min(best, time.perf_counter() - begin)
    return 2 * rows * inner * outer / best


def minilm_flop(lengths: np.ndarray) -> float:
    """FLOP of MiniLM-L6's encoder over inputs of these lengths: 21.23 M n + 9,216 n^2."""
    lengths = lengths.astype(np.float64)
    return float((21.23e6 * lengths + 9216 * lengths**2).sum())
