"""Measures a reranker on held-out queries and chooses the weight of the first stage.

    fused = w * z(first_stage) + (1 - w) * z(rerank)

with z(x) = (x - mean) / population standard deviation over the query's candidates, and 0 where the
deviation is 0. A few judgements do not determine more than one number, so one w is chosen for all
collections, by the mean of their nDCG@10.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CUTOFF = 10


@dataclass(frozen=True)
class JudgedQuery:
    """One query's n scored candidates.

    Attributes:
        gains: float64 [n], the grade of each candidate, 0 where it is not judged.
        ideal: grades of all relevant documents, candidates or not, in descending order.
        first_stage: float64 [n], scores of the first stage.
        rerank: float64 [n], raw scores of the reranker.
    """

    gains: NDArray[np.float64]
    ideal: tuple[float, ...]
    first_stage: NDArray[np.float64]
    rerank: NDArray[np.float64]


def standardise(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """z-scores over one query's candidates; zeros where all scores are equal."""
    deviation = scores.std()
    if deviation == 0.0:
        return np.zeros_like(scores)
    return np.asarray((scores - scores.mean()) / deviation, dtype=np.float64)


def ndcg(query: JudgedQuery, first_stage_weight: float) -> float:
    """nDCG@10 of one query with linear gains; ties keep the first stage's order."""
    fused = first_stage_weight * standardise(query.first_stage)
    fused = fused + (1.0 - first_stage_weight) * standardise(query.rerank)
    order = np.argsort(-fused, kind="stable")[:CUTOFF]
    discount = 1.0 / np.log2(np.arange(2, CUTOFF + 2))
    ideal = np.asarray(query.ideal[:CUTOFF])
    best = float(ideal @ discount[: len(ideal)])
    return float(query.gains[order] @ discount[: len(order)]) / best if best else 0.0


def mean_ndcg(collections: Mapping[str, Sequence[JudgedQuery]], weight: float) -> dict[str, float]:
    """Mean nDCG@10 of each collection at one weight."""
    return {
        name: float(np.mean([ndcg(query, weight) for query in queries]))
        for name, queries in collections.items()
    }


def choose_weight(
    collections: Mapping[str, Sequence[JudgedQuery]], step: float = 0.05
) -> tuple[float, float]:
    """The weight with the highest mean over collections, and that mean; the lower one of ties."""
    grid = [round(step * i, 10) for i in range(round(1.0 / step) + 1)]
    means = [float(np.mean(list(mean_ndcg(collections, w).values()))) for w in grid]
    best = int(np.argmax(means))
    return grid[best], means[best]
