"""Token ids of a model's input, spliced from stored ids instead of tokenised again.

A text is tokenised once per tokenizer; a pair is then put together as ::

    before + query + between + document + after

with the special tokens of the model's template, which a hundred candidates per query repay a
hundredfold. Not every tokenizer allows it (some tokenise a text otherwise when another precedes
it), so `provable_template` derives the template from the tokenizer's own output and checks it on
awkward probes; where one differs, the caller stores texts and tokenises whole pairs.

Truncation is "longest first", the default of Hugging Face's own pair encoding: the longer text is
cut at its tail until the pair fits, and both to half where both are longer than half. A query of
up to half the limit is therefore never cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.tokens import Tokens

PROBES = (
    "a",
    "",
    " ",
    "what is bm25?",
    "The date when the contract is effective",
    "Hello, world! (twice)",
    "...",
    "don't re-rank; re-trieve.",
    " leading and trailing ",
    "double  space\tand\ttab",
    "line\nbreak\r\nand another",
    "Ünïcödé façade naïve",
    "日本語のテキスト",
    "Привет, мир",
    "مرحبا بالعالم",
    "emoji 🙂🧪 and e\u0301 combining",
    "zero\u200bwidth\u00a0space",
    "3.14159 1,000,000 10%",
    "https://example.org/a?b=c#d",
    "pneumonoultramicroscopicsilicovolcanoconiosis",
    "tab\x00nul � replacement",
    # Longer than any limit here, and different at its two ends, so that truncation shows.
    " ".join(f"the {number} words" for number in range(1, 120)),
)


@dataclass(frozen=True)
class Template:
    """The special tokens around one text or two, and the type of each part.

    Attributes:
        before: ids ahead of the first text.
        between: ids between the texts; empty for single texts.
        after: ids behind the last text.
        types: token types of before, first text, between, second text, after.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[int, int, int, int, int]

    @property
    def special(self) -> int:
        """How many tokens the template adds."""
        return len(self.before) + len(self.between) + len(self.after)


def longest_first(
    first: NDArray[np.int64], second: NDArray[np.int64], room: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lengths of both texts after truncation to `room` tokens together.

    Args:
        first: int64 [n], lengths.
        second: int64 [n], lengths.
        room: tokens for both.

    Returns:
        The kept lengths, int64 [n] each, with a sum of at most `room`.
    """
    short, long = np.minimum(first, second), np.maximum(first, second)
    kept_long = np.minimum(long, np.maximum(short, room - short))
    both = short + kept_long > room
    kept_short = np.where(both, room // 2, short)
    kept_long = np.where(both, room // 2 + room % 2, kept_long)
    swap = first > second
    return np.where(swap, kept_long, kept_short), np.where(swap, kept_short, kept_long)


@dataclass(frozen=True)
class Batch:
    """Padded inputs.

    Attributes:
        input_ids: int32 [n, width], padded on the right.
        token_types: int32 [n, width].
        lengths: int64 [n], tokens of each row.
        first_lengths: int64 [n], tokens of each row's first text.
    """

    input_ids: NDArray[np.int32]
    token_types: NDArray[np.int32]
    lengths: NDArray[np.int64]
    first_lengths: NDArray[np.int64]


class Splicer:
    """Puts inputs together from stored token ids.

    Args:
        template: special tokens and types.
        max_length_tokens: bound on a whole input.
        padding: id of the padding token.
    """

    def __init__(self, template: Template, max_length_tokens: int, padding: int) -> None:
        self.template, self.padding = template, padding
        self.room = max_length_tokens - template.special

    def lengths(
        self, first: NDArray[np.int64], second: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """int64 [n], tokens of the inputs made of texts of these lengths."""
        if second is None:
            return np.minimum(first, self.room) + self.template.special
        one, two = longest_first(first, second, self.room)
        return one + two + self.template.special

    def batch(
        self,
        first: Tokens,
        first_rows: NDArray[np.integer[Any]],
        second: Tokens | None = None,
        second_rows: NDArray[np.integer[Any]] | None = None,
    ) -> Batch:
        """The inputs of one batch.

        Args:
            first: queries of a pair, or single texts.
            first_rows: [n], rows of `first`.
            second: documents of a pair, or None.
            second_rows: [n], rows of `second`.
        """
        first_lengths = first.lengths[first_rows]
        if second is None or second_rows is None:
            kept_first = np.minimum(first_lengths, self.room)
            kept_second = np.zeros_like(kept_first)
        else:
            second_lengths = second.lengths[second_rows]
            kept_first, kept_second = longest_first(first_lengths, second_lengths, self.room)
        template = self.template
        lengths = kept_first + kept_second + template.special
        shape = (len(lengths), int(lengths.max(initial=1)))
        ids = np.full(shape, self.padding, dtype=np.int32)
        types = np.zeros(shape, dtype=np.int32)

        column = np.zeros(len(lengths), dtype=np.int64)
        column = _put(ids, types, column, template.before, template.types[0])
        column = _copy(ids, types, column, first, first_rows, kept_first, template.types[1])
        column = _put(ids, types, column, template.between, template.types[2])
        if second is not None and second_rows is not None:
            column = _copy(ids, types, column, second, second_rows, kept_second, template.types[3])
        _put(ids, types, column, template.after, template.types[4])
        return Batch(ids, types, lengths, kept_first)


def _put(
    ids: NDArray[np.int32],
    types: NDArray[np.int32],
    column: NDArray[np.int64],
    special: tuple[int, ...],
    kind: int,
) -> NDArray[np.int64]:
    """Writes the same ids into every row from its column on; gives the next columns."""
    rows = np.arange(len(ids))
    for offset, token in enumerate(special):
        ids[rows, column + offset] = token
        types[rows, column + offset] = kind
    return column + len(special)


def _copy(
    ids: NDArray[np.int32],
    types: NDArray[np.int32],
    column: NDArray[np.int64],
    source: Tokens,
    source_rows: NDArray[np.integer[Any]],
    lengths: NDArray[np.int64],
    kind: int,
) -> NDArray[np.int64]:
    """Writes the head of one stored text into each row; gives the next columns."""
    total = int(lengths.sum())
    starts = np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(np.int64)
    within = np.arange(total) - np.repeat(starts, lengths)
    rows = np.repeat(np.arange(len(ids)), lengths)
    columns = np.repeat(column, lengths) + within
    ids[rows, columns] = source.ids[np.repeat(source.offsets[source_rows], lengths) + within]
    types[rows, columns] = kind
    return column + lengths


def provable_template(tokenizer: Any, pair: bool) -> Template | None:
    """The template of a Hugging Face tokenizer, if splicing equals its own encoding.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        pair: two texts, or one.

    Returns:
        The template, or None where the two differ on any probe (also under truncation).
    """
    template = _derive(tokenizer, pair)
    if template is None or tokenizer.pad_token_id is None:
        return None
    plain = Tokens.from_lists(
        tokenizer(list(PROBES), add_special_tokens=False, verbose=False)["input_ids"]
    )
    count = len(PROBES)
    for limit in (512, 48):
        splicer = Splicer(template, limit, tokenizer.pad_token_id)
        for shift in (0, 1, 5, 11) if pair else (0,):
            rows = np.arange(count)
            others = (rows + shift) % count
            texts = [PROBES[row] for row in others] if pair else None
            expected = tokenizer(list(PROBES), texts, truncation=True, max_length=limit)
            made = splicer.batch(plain, rows, plain, others) if pair else splicer.batch(plain, rows)
            types = expected.get("token_type_ids")
            for row in range(count):
                length = int(made.lengths[row])
                if made.input_ids[row, :length].tolist() != expected["input_ids"][row]:
                    return None
                if types is not None and made.token_types[row, :length].tolist() != types[row]:
                    return None
    return template


def _derive(tokenizer: Any, pair: bool) -> Template | None:
    """Reads the template off the encoding of two plain words."""
    first = tokenizer("apple", add_special_tokens=False)["input_ids"]
    second = tokenizer("river", add_special_tokens=False)["input_ids"] if pair else []
    whole = tokenizer("apple", "river") if pair else tokenizer("apple")
    ids = whole["input_ids"]
    types = whole.get("token_type_ids") or [0] * len(ids)
    start = _find(ids, first, 0)
    if start is None:
        return None
    middle = start + len(first)
    resume = _find(ids, second, middle) if pair else middle
    if resume is None:
        return None
    end = resume + len(second)

    def kind(position: int) -> int:
        return int(types[position]) if 0 <= position < len(types) else 0

    parts = (
        kind(0) if start else 0,
        kind(start),
        kind(middle) if resume > middle else 0,
        kind(resume) if pair else 0,
        kind(end) if end < len(ids) else 0,
    )
    return Template(tuple(ids[:start]), tuple(ids[middle:resume]), tuple(ids[end:]), parts)


def _find(ids: list[int], part: list[int], start: int) -> int | None:
    """Where `part` begins in `ids`, at or after `start`."""
    if not part:
        return None
    for position in range(start, len(ids) - len(part) + 1):
        if ids[position : position + len(part)] == part:
            return position
    return None
