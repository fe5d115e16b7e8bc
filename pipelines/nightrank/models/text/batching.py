"""Which inputs form a batch: pure functions of their lengths.

Inputs of similar length form a batch, since padding costs as much as text, and a batch is bounded
by its padded tokens, since they take time and memory. Nothing here depends on the machine, so a
unit has the same batches, and bit-identical scores, wherever it is computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass
class Tally:
    """Counts of what this process has put through models.

    Attributes:
        tokens: tokens of texts.
        padding: padding tokens.
        halved: batches that were too large for the device and ran in halves.
        cut: inputs that were longer than their model's limit.
    """

    tokens: int = 0
    padding: int = 0
    halved: int = 0
    cut: int = 0


# One per process, as the model is; read by units and metrics.
SPENT = Tally()


def order_by_length(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of the inputs, longest first; equal lengths keep their order.

    The largest allocation is then the first, and a unit that does not fit fails at once instead of
    at its end.
    """
    return np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").astype(np.int64)


def pack(
    lengths: NDArray[np.int64], token_budget: int, max_items: int = 1024
) -> list[NDArray[np.int64]]:
    """Forms batches of at most `token_budget` padded tokens.

    Args:
        lengths: int64 [n], tokens of each input.
        token_budget: bound on inputs x longest input of a batch; an input longer than the budget
            is a batch of its own.
        max_items: bound on the inputs of a batch.

    Returns:
        Arrays of positions into `lengths`; every position occurs once.
    """
    order = order_by_length(lengths)
    batches: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        # Longest first: the first input's length is the batch's width.
        width = max(1, int(lengths[order[start]]))
        size = min(max(1, token_budget // width), max_items)
        batches.append(order[start : start + size])
        SPENT.padding += width * len(batches[-1])
        start += size
    tokens = int(lengths.sum())
    SPENT.tokens += tokens
    SPENT.padding -= tokens
    return batches
