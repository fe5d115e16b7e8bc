"""The groups that a step trains on, drawn from weighted collections.

A group is one query and several documents. It is either labelled (its first document is relevant,
the others are hard negatives) or has a teacher's score for every document. The groups of a step are
a pure function of (seed, step).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Ids = Sequence[int]
"""Token ids of one text, without special tokens."""


@dataclass(frozen=True)
class Example:
    """A group as token ids.

    Attributes:
        query: the query.
        documents: of a labelled group the relevant one, then negatives, hardest first; with a
            teacher its list, best first.
        targets: the teacher's scores of `documents`; empty for a labelled group.
    """

    query: Ids
    documents: Sequence[Ids]
    targets: Sequence[float] = ()


@dataclass(frozen=True)
class Source:
    """One collection's examples and its share of the groups of a run."""

    name: str
    examples: Sequence[Example]
    weight: float


@dataclass(frozen=True)
class Draw:
    """How groups are drawn.

    Attributes:
        steps: steps of the whole schedule.
        groups_per_step: groups of one step.
        negatives: documents drawn for each group in addition to its first.
        seed: fixes the order and the draws.
    """

    steps: int
    groups_per_step: int
    negatives: int
    seed: int


def plan_step(sources: Sequence[Source], draw: Draw, step: int) -> list[Example]:
    """The groups of one step: sources drawn by weight, each source in shuffled epochs.

    Args:
        sources: the collections.
        draw: seed and sizes.
        step: from 0.

    Returns:
        `groups_per_step` examples with the documents to score (fewer where the example has fewer),
        the relevant one or the teacher's best of them first.
    """
    size = draw.groups_per_step
    share = np.array([s.weight for s in sources]) / sum(s.weight for s in sources)
    drawn = np.random.default_rng([draw.seed, 0]).choice(
        len(sources), size=draw.steps * size, p=share
    )
    chosen: list[Example] = []
    for slot in range(step * size, (step + 1) * size):
        which = int(drawn[slot])
        examples = sources[which].examples
        position = int((drawn[:slot] == which).sum())
        epoch, offset = divmod(position, len(examples))
        order = np.random.default_rng([draw.seed, 1, which, epoch]).permutation(len(examples))
        rng = np.random.default_rng([draw.seed, 2, slot])
        chosen.append(_drawn(examples[int(order[offset])], draw.negatives, rng))
    return chosen


def _drawn(example: Example, negatives: int, rng: np.random.Generator) -> Example:
    """The example with the documents of one step, hard negatives being more likely."""
    first = 0 if example.targets else 1
    available = len(example.documents) - first
    odds = 1.0 / (np.arange(available) + 10.0)
    count = min(negatives + 1 - first, available)
    picked = rng.choice(available, size=count, replace=False, p=odds / odds.sum()) + first
    if not example.targets:
        rows = [0, *picked.tolist()]
        return Example(example.query, [example.documents[i] for i in rows])
    rows = sorted(picked.tolist(), key=lambda i: -example.targets[i])
    documents = [example.documents[i] for i in rows]
    return Example(example.query, documents, [example.targets[i] for i in rows])
