"""A unit's inputs, whichever way its tokens are stored, and the loop that runs them.

`SplicedInputs` puts inputs together from stored ids; `TokenisedInputs` tokenises whole inputs from
stored texts. Both say how long each input is before any is made, which is what batches are packed
by, and `run_batches` is the one loop around a model's forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.models.batching import pack
from pipelines.models.splicing import Batch, Splicer
from pipelines.tokens import Tokens

TOKEN_BUDGET_CPU = 4096  # beyond this, activations leave the cache and nothing is gained
TOKEN_BUDGET_GPU = 65_536


class Inputs(Protocol):
    """n inputs whose lengths are known before they are made."""

    lengths: NDArray[np.int64]

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """The inputs at `rows`, padded on the right to the longest of them."""
        ...


class SplicedInputs:
    """Inputs from stored ids: single texts, or pairs.

    Args:
        splicer: the template and the limit.
        first: texts, or a pair's queries.
        second: a pair's documents, or None.
        pairs: int [n, 2], rows of `first` and `second`; None takes every row of `first`.
    """

    def __init__(
        self,
        splicer: Splicer,
        first: Tokens,
        second: Tokens | None = None,
        pairs: NDArray[np.int32] | None = None,
    ) -> None:
        self._splicer, self._first, self._second = splicer, first, second
        if second is None or pairs is None:
            self._rows: NDArray[Any] = np.arange(len(first))
            self._others: NDArray[Any] | None = None
            self.lengths = splicer.lengths(first.lengths)
        else:
            self._rows, self._others = pairs[:, 0], pairs[:, 1]
            self.lengths = splicer.lengths(first.lengths[self._rows], second.lengths[self._others])

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """See `Inputs`."""
        others = None if self._others is None else self._others[rows]
        return self._splicer.batch(self._first, self._rows[rows], self._second, others)


class TokenisedInputs:
    """Pairs tokenised whole, truncated longest first.

    Args:
        tokenizer: a fast Hugging Face tokenizer with a padding token.
        queries: query texts.
        documents: document texts.
        pairs: int [n, 2], rows of both.
        max_length_tokens: bound on an input.
    """

    def __init__(
        self,
        tokenizer: Any,
        queries: Sequence[str],
        documents: Sequence[str],
        pairs: NDArray[np.int32],
        max_length_tokens: int,
    ) -> None:
        self._padding = int(tokenizer.pad_token_id)
        encoded = (
            tokenizer(
                [queries[row] for row in pairs[:, 0].tolist()],
                [documents[row] for row in pairs[:, 1].tolist()],
                truncation="longest_first",
                max_length=max_length_tokens,
            )
            if len(pairs)
            else {"input_ids": []}
        )
        self._ids = Tokens.from_lists(encoded["input_ids"])
        types = encoded.get("token_type_ids")
        self._types = None if types is None else Tokens.from_lists(types)
        self.lengths = self._ids.lengths

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """See `Inputs`; where the first text ends is not known here and is given as 0."""
        lengths = self.lengths[rows]
        shape = (len(rows), int(lengths.max(initial=1)))
        filled = np.arange(shape[1]) < lengths[:, None]
        ids = np.full(shape, self._padding, dtype=np.int64)
        ids[filled] = self._ids.take(rows).ids
        types = np.zeros(shape, dtype=np.int64)
        if self._types is not None:
            types[filled] = self._types.take(rows).ids
        return Batch(ids, types, lengths, np.zeros_like(lengths))


Forward = Callable[[Tensor, Tensor | None, Batch], Tensor]
"""(input_ids, attention_mask or None, the batch in numpy) to float32 [n] or [n, width]."""


def run_batches(
    inputs: Inputs, forward: Forward, device: torch.device, columns: int = 0
) -> NDArray[np.float32]:
    """Runs a model over all inputs in length order.

    Args:
        inputs: a unit's inputs.
        forward: the model.
        device: where the model lies.
        columns: width of the model's output, 0 for one number an input.

    Returns:
        float32 [n] or [n, columns], in the order of the inputs.
    """
    count = len(inputs.lengths)
    outputs = np.zeros((count, columns) if columns else count, dtype=np.float32)
    budget = TOKEN_BUDGET_GPU if device.type == "cuda" else TOKEN_BUDGET_CPU
    with torch.inference_mode():
        for rows in pack(inputs.lengths, budget):
            made = inputs.batch(rows)
            ids = torch.from_numpy(made.input_ids).to(device)
            mask = None
            if int(made.lengths.min()) < ids.shape[1]:
                # A batch of one length needs no mask, and attention without one is faster.
                inside = np.arange(ids.shape[1]) < made.lengths[:, None]
                mask = torch.from_numpy(inside.astype(np.int64)).to(device)
            outputs[rows] = forward(ids, mask, made).float().cpu().numpy()
    return outputs
