"""Measures a reranker on held-out queries and chooses the weight of the first stage.

    fused = w * z(first_stage) + (1 - w) * z(rerank)

with z(x) = (x - mean) / population standard deviation over the query's pool, and 0 where the
deviation is 0. A short list of judgments cannot carry more than one number, so one w is chosen
for all collections, by the mean over them of nDCG@10.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CUTOFF = 10


@dataclass(frozen=True)
class Judged:
    """One query's pool.

    Attributes:
        gains: float64 [n], the grade of each pooled document, 0 where unjudged.
        ideal: grades of all relevant documents, pooled or not, in falling order.
        first_stage: float64 [n].
        rerank: float64 [n], raw scores.
    """

    gains: NDArray[np.float64]
    ideal: tuple[float, ...]
    first_stage: NDArray[np.float64]
    rerank: NDArray[np.float64]


def standardise(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """z-scores within one pool; zeros where all scores are equal."""
    deviation = scores.std()
    if deviation == 0.0:
        return np.zeros_like(scores)
    return np.asarray((scores - scores.mean()) / deviation, dtype=np.float64)


def ndcg(judged: Judged, first_stage_weight: float) -> float:
    """nDCG@10 of one query, linear gains, ties kept in the first stage's order."""
    fused = first_stage_weight * standardise(judged.first_stage)
    fused = fused + (1.0 - first_stage_weight) * standardise(judged.rerank)
    order = np.argsort(-fused, kind="stable")[:CUTOFF]
    discount = 1.0 / np.log2(np.arange(2, CUTOFF + 2))
    ideal = np.asarray(judged.ideal[:CUTOFF])
    best = float(ideal @ discount[: len(ideal)])
    return float(judged.gains[order] @ discount[: len(order)]) / best if best else 0.0


def mean_ndcg(collections: Mapping[str, Sequence[Judged]], weight: float) -> dict[str, float]:
    """Mean nDCG@10 of each collection at one weight."""
    return {n: float(np.mean([ndcg(j, weight) for j in js])) for n, js in collections.items()}


def choose_weight(
    collections: Mapping[str, Sequence[Judged]], step: float = 0.05
) -> tuple[float, float]:
    """The weight with the highest mean over collections, and that mean; ties take the lower."""
    grid = [round(step * i, 10) for i in range(round(1.0 / step) + 1)]
    means = [float(np.mean(list(mean_ndcg(collections, w).values()))) for w in grid]
    best = int(np.argmax(means))
    return grid[best], means[best]
