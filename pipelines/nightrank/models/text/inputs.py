"""A unit's inputs, and the loop that runs a network over them.

`SplicedInputs` assembles inputs from stored ids; `TokenisedInputs` tokenises whole inputs from
stored texts. Both know the length of every input before any is assembled, which is what batches are
formed by. `run` is the only loop around a network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nightrank.errors import NightrankError
from nightrank.models.text.batching import SPENT, pack
from nightrank.models.text.pieces import Batch, Source
from nightrank.models.text.splicing import Splicer
from nightrank.storage.tokens import Tokens


class Inputs(Protocol):
    """n inputs whose lengths are known before they are assembled.

    Attributes:
        lengths: int64 [n], tokens of each, special ones counted.
        cut: how many were longer than the limit.
    """

    lengths: NDArray[np.int64]
    cut: int

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """The inputs at `rows`."""
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
        self._source = splicer.source(first, second)
        if second is None or pairs is None:
            self._rows: NDArray[Any] = np.arange(len(first))
            self._others: NDArray[Any] | None = None
            whole = first.lengths
            self.lengths = splicer.lengths(whole)
        else:
            self._rows, self._others = pairs[:, 0], pairs[:, 1]
            sides = first.lengths[self._rows], second.lengths[self._others]
            whole = sides[0] + sides[1]
            self.lengths = splicer.lengths(*sides)
        self.cut = int((whole > splicer.room).sum())

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """See `Inputs`."""
        others = None if self._others is None else self._others[rows]
        first = self._first, self._rows[rows]
        return self._splicer.batch(self._source, *first, self._second, others)


class TokenisedInputs:
    """Inputs tokenised whole: see `of_texts` and `of_pairs`.

    Args:
        encoded: the output of a Hugging Face tokenizer.
        padding: id of the padding token.
    """

    def __init__(self, encoded: Any, padding: int) -> None:
        self._padding = padding
        tokens = Tokens.from_lists(encoded["input_ids"])
        types = encoded.get("token_type_ids")
        kinds = np.zeros_like(tokens.ids) if types is None else Tokens.from_lists(types).ids
        self._source, self._starts = Source(tokens.ids, kinds), tokens.offsets[:-1]
        self.lengths = tokens.lengths
        # A tokenizer keeps what it cuts off in `overflowing`.
        encodings = getattr(encoded, "encodings", None) or ()
        self.cut = sum(bool(encoding.overflowing) for encoding in encodings)

    @staticmethod
    def of_texts(tokenizer: Any, texts: list[str], max_length_tokens: int) -> TokenisedInputs:
        """Single texts, cut at their end.

        Args:
            tokenizer: a fast Hugging Face tokenizer with a padding token.
            texts: the texts.
            max_length_tokens: bound on an input.
        """
        return TokenisedInputs._encoded(tokenizer, [texts], "only_first", max_length_tokens)

    @staticmethod
    def of_pairs(
        tokenizer: Any,
        queries: Sequence[str],
        documents: Sequence[str],
        pairs: NDArray[np.int32],
        max_length_tokens: int,
    ) -> TokenisedInputs:
        """Pairs, truncated longest first.

        Args:
            tokenizer: a fast Hugging Face tokenizer with a padding token.
            queries: query texts.
            documents: document texts.
            pairs: int [n, 2], rows of both.
            max_length_tokens: bound on an input.
        """
        sides = [
            [queries[row] for row in pairs[:, 0].tolist()],
            [documents[row] for row in pairs[:, 1].tolist()],
        ]
        return TokenisedInputs._encoded(tokenizer, sides, "longest_first", max_length_tokens)

    @staticmethod
    def _encoded(
        tokenizer: Any, sides: list[list[str]], truncation: str, max_length_tokens: int
    ) -> TokenisedInputs:
        encoded: Any = {"input_ids": []}
        if sides[0]:
            encoded = tokenizer(*sides, truncation=truncation, max_length=max_length_tokens)
        return TokenisedInputs(encoded, int(tokenizer.pad_token_id))

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """See `Inputs`; the length of the first text is not known here and is 0."""
        return Batch.of_rows(self._source, self._starts[rows], self.lengths[rows], self._padding)


def longer_than(
    tokenizer: Any, max_length_tokens: int, texts: Sequence[str], seconds: Sequence[str] = ()
) -> int:
    """How many texts, or pairs of texts, a Hugging Face tokenizer would cut.

    A token is at least one byte, apart from special tokens and the mark of a word's start: texts
    that are short enough in bytes are not tokenised.

    Args:
        tokenizer: the model's.
        max_length_tokens: bound on an input.
        texts: single texts, or a pair's first ones.
        seconds: a pair's second texts.
    """
    paired = bool(seconds)
    others = seconds if paired else [""] * len(texts)
    room = max_length_tokens - tokenizer.num_special_tokens_to_add(pair=paired) - 1 - paired
    long = [
        (first, second)
        for first, second in zip(texts, others, strict=True)
        if len(first.encode()) + len(second.encode()) > room
    ]
    if not long:
        return 0
    sides = [[first for first, _ in long], *([[second for _, second in long]] if paired else [])]
    encoded = tokenizer(*sides, truncation=False, padding=False, verbose=False)
    return sum(len(ids) > max_length_tokens for ids in encoded["input_ids"])


class DeviceMemoryError(Exception):
    """A batch did not fit into the device's memory; what it had allocated is free again."""


class Engine(Protocol):
    """A network that takes batches.

    Attributes:
        token_budget: padded tokens of a batch.
    """

    token_budget: int

    def start(self, batch: Batch) -> Any:
        """Runs a batch, or starts it: on a GPU the host assembles the next one in the meantime.

        Raises:
            DeviceMemoryError: where the batch does not fit.
            UnfitProcessError: E_CLUSTER, where the device is lost.
        """
        ...

    def finish(self, started: Any) -> NDArray[np.float32]:
        """Waits for the outputs of a batch, float32 [n] or [n, width]."""
        ...


def run(inputs: Inputs, engine: Engine, columns: int = 0) -> NDArray[np.float32]:
    """Runs a network over all inputs in length order.

    Args:
        inputs: a unit's inputs.
        engine: the network.
        columns: width of its output; 0 for one number per input.

    Returns:
        float32 [n] or [n, columns], in the order of the inputs.

    Raises:
        NightrankError: E_OOM, where a single input is too large for the device.
    """
    count = len(inputs.lengths)
    SPENT.cut += inputs.cut
    outputs = np.zeros((count, columns) if columns else count, dtype=np.float32)
    waiting = deque(pack(inputs.lengths, engine.token_budget))
    started: list[tuple[NDArray[np.int64], Any]] = []
    while waiting or started:
        halves: list[NDArray[np.int64]] = []
        while waiting and not halves:
            rows = waiting.popleft()
            try:
                started.append((rows, engine.start(inputs.batch(rows))))
            except DeviceMemoryError as error:
                halves = _halves(rows, inputs.lengths, error)
        # A batch that did not fit may fit when nothing else is running.
        for rows, running in started:
            outputs[rows] = engine.finish(running)
        started.clear()
        waiting.extendleft(reversed(halves))
    return outputs


def _halves(
    rows: NDArray[np.int64], lengths: NDArray[np.int64], error: DeviceMemoryError
) -> list[NDArray[np.int64]]:
    if len(rows) == 1:
        what = f"an input of {lengths[rows[0]]} tokens is too large for the device: {error}"
        do = "lower the model's max_length_tokens, or use larger GPUs for its pool"
        raise NightrankError("E_OOM", what, "", do) from error
    SPENT.halved += 1
    return np.array_split(rows, 2)
