"""Splices a model's inputs from stored token ids, instead of tokenising texts again.

A text is tokenised once per tokenizer; a pair is then assembled as ::

    before + query + between + document + after

with the special tokens of the model's template: with a hundred candidates per query, a query is
tokenised once instead of a hundred times. Not every tokenizer allows it (some tokenise a text
differently after another one), so `provable_template` derives the template from the tokenizer's
output and checks it on difficult probes; where one differs, texts are stored, and whole pairs are
tokenised.

Truncation is "longest first", the default of Hugging Face's pair encoding: the longer text is cut
at its end until the pair fits, and both to half where both are longer than half. A query of up to
half the limit is therefore never cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightrank.models.text.pieces import Batch, Source
from nightrank.storage.tokens import Tokens

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
        before: ids before the first text.
        between: ids between the texts; empty for single texts.
        after: ids after the last text.
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


class Splicer:
    """Assembles inputs from stored token ids.

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
        """int64 [n], tokens of the inputs that texts of these lengths give."""
        if second is None:
            return np.minimum(first, self.room) + self.template.special
        kept_first, kept_second = longest_first(first, second, self.room)
        return kept_first + kept_second + self.template.special

    def source(self, first: Tokens, second: Tokens | None = None) -> Source:
        """The ids of the template and of all texts, concatenated.

        Args:
            first: queries of pairs, or single texts.
            second: documents of pairs, or None.
        """
        template = self.template
        special = (*template.before, *template.between, *template.after)
        kinds = np.repeat(
            np.array(template.types, np.int32)[[0, 2, 4, 1, 3]],
            [
                len(template.before),
                len(template.between),
                len(template.after),
                len(first.ids),
                0 if second is None else len(second.ids),
            ],
        )
        texts = [first.ids] if second is None else [first.ids, second.ids]
        return Source(np.concatenate([np.array(special, np.int32), *texts]), kinds)

    def batch(
        self,
        source: Source,
        first: Tokens,
        first_rows: NDArray[np.integer[Any]],
        second: Tokens | None = None,
        second_rows: NDArray[np.integer[Any]] | None = None,
    ) -> Batch:
        """The inputs of one batch.

        Args:
            source: of both.
            first: queries of pairs, or single texts.
            first_rows: [n], rows of `first`.
            second: documents of pairs, or None.
            second_rows: [n], rows of `second`.
        """
        template = self.template
        before, between, after = map(len, (template.before, template.between, template.after))
        starts = np.zeros((len(first_rows), 5), np.int64)
        sizes = np.zeros((len(first_rows), 5), np.int64)
        sizes[:, [0, 2, 4]] = before, between, after
        starts[:, [2, 4]] = before, before + between
        starts[:, 1] = template.special + first.offsets[first_rows]
        lengths = first.offsets[first_rows + 1] - first.offsets[first_rows]
        sizes[:, 1] = np.minimum(lengths, self.room)
        if second is not None and second_rows is not None:
            starts[:, 3] = template.special + len(first.ids) + second.offsets[second_rows]
            others = second.offsets[second_rows + 1] - second.offsets[second_rows]
            sizes[:, 1], sizes[:, 3] = longest_first(lengths, others, self.room)
        return Batch(source, starts, sizes, sizes[:, 1], self.padding)


def provable_template(tokenizer: Any, pair: bool) -> Template | None:
    """The template of a Hugging Face tokenizer, if splicing equals its encoding.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        pair: two texts, or one.

    Returns:
        The template, or None where the two differ on any probe, with truncation or without.
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
        source = splicer.source(plain, plain if pair else None)
        for shift in (0, 1, 5, 11) if pair else (0,):
            rows = np.arange(count)
            others = (rows + shift) % count
            texts = [PROBES[row] for row in others] if pair else None
            expected = tokenizer(list(PROBES), texts, truncation=True, max_length=limit)
            seconds = (plain, others) if pair else ()
            spliced = splicer.batch(source, plain, rows, *seconds)
            types = expected.get("token_type_ids")
            for row in range(count):
                length = int(spliced.lengths[row])
                if spliced.input_ids[row, :length].tolist() != expected["input_ids"][row]:
                    return None
                if types is not None and spliced.token_types[row, :length].tolist() != types[row]:
                    return None
    return template


def _derive(tokenizer: Any, pair: bool) -> Template | None:
    """Reads the template from the encoding of two plain words."""
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
