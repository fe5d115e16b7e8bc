"""Which items go through a model together: pure functions of their lengths.

Near-equal lengths go together, since padding costs as much as text, and a batch is bounded by its
padded tokens, since that is what takes time and memory. Nothing here depends on the machine, so a
unit's batches, and with them its scores to the last bit, are the same wherever it is computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass
class Tally:
    """What this process has put through models.

    Attributes:
        tokens: of texts.
        padding: added to them.
        halved: batches that were too large for the device and went through in halves.
        cut: inputs that were longer than their model takes.
    """

    tokens: int = 0
    padding: int = 0
    halved: int = 0
    cut: int = 0


# One a process, as models are; read by whoever reports how the process does.
SPENT = Tally()


def order_by_length(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of the items, longest first; equal lengths keep their order.

    Longest first, so that the largest allocation comes first and a unit that cannot fit fails at
    once rather than at its end.
    """
    return np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").astype(np.int64)


def pack(
    lengths: NDArray[np.int64], token_budget: int, max_items: int = 1024
) -> list[NDArray[np.int64]]:
    """Cuts length-ordered items into batches of at most `token_budget` padded tokens.

    Args:
        lengths: int64 [n], tokens of each item.
        token_budget: bound on items x longest item of a batch; an item longer than the budget
            makes a batch of its own.
        max_items: bound on the items of a batch.

    Returns:
        Arrays of positions into `lengths`; every position occurs once.
    """
    order = order_by_length(lengths)
    batches: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        # Longest first: the first item's length is the batch's width.
        width = max(1, int(lengths[order[start]]))
        size = min(max(1, token_budget // width), max_items)
        batches.append(order[start : start + size])
        SPENT.padding += width * len(batches[-1])
        start += size
    tokens = int(lengths.sum())
    SPENT.tokens += tokens
    SPENT.padding -= tokens
    return batches
