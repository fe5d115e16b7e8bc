"""The rerank steps of a plan, and the bands of depth that its last one is scored in."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from nightrank.flow.values import Step
from nightrank.generations.planning import Plan


@dataclass(frozen=True)
class Band:
    """Ranks above `low` up to `high` of one step, and how operators see that stage."""

    low: int
    high: int
    label: str


def steps_of(plan: Plan) -> Iterator[Step]:
    """The steps in order; one without a model where nothing is reranked."""
    steps = plan.config.rerank
    if not steps:
        yield Step(-1, "", None, 0, 0.0, 0, True)
    for number, (step, model) in enumerate(zip(steps, plan.steps, strict=True)):
        is_last = number + 1 == len(steps)
        following = 0 if is_last else steps[number + 1].depth
        yield Step(number, step.name, model, step.depth, plan.weight(number), following, is_last)


def bands_of(plan: Plan, step: Step) -> list[Band]:
    """The bands of one step: all of its depth, or of the last step the plan's bands."""
    edges = [0, *sorted({band for band in plan.bands if step.is_last and band < step.depth})]
    edges.append(step.depth)
    if len(edges) == 2:
        return [Band(0, step.depth, step.name)]
    pairs = itertools.pairwise(edges)
    return [Band(low, high, f"{step.name} {low + 1}-{high}") for low, high in pairs]


def scored_depth(plan: Plan, reached: int | None) -> int:
    """How deep the last step has scored the lists; 0 without one."""
    return reached or (plan.config.rerank[-1].depth if plan.steps else 0)
