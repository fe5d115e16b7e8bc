"""Texts to term ids, the vocabulary of BM25.

A term is a word (two or more letters, digits or underscores), lower-cased, not a stop word, stemmed
by Snowball. Its id is a 31-bit hash of the stem, so that no unit needs a vocabulary: all shards of
all runs agree on every id. Two stems share an id about once in 2**31 pairs; of a million stems, one
in 2,000 shares its id.

Knows nothing about: models, statistics, storage.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import Stemmer
import xxhash

from nightrank.storage.tokens import Tokens

WORD = re.compile(r"\b\w\w+\b")
# The stop words of Lucene's EnglishAnalyzer. Other languages have none: BM25 gives common words
# little weight.
ENGLISH_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be but by for if in into is it no not of on or such that the their "
        "then there these they this to was will with",
    )
)
NO_TERM = -1
# Words whose ids are cached; the full cache is cleared, and common words return to it soon.
CACHED_WORDS = 1 << 20


def languages() -> tuple[str, ...]:
    """The languages of `Analyzer`: those of Snowball, and `none`."""
    return (*Stemmer.algorithms(), "none")


class Analyzer:
    """Turns texts into term ids.

    Args:
        language: of `languages`; `none` neither stems nor drops stop words.
    """

    def __init__(self, language: str) -> None:
        self._stem = None if language == "none" else Stemmer.Stemmer(language).stemWord
        self._stop_words = ENGLISH_STOP_WORDS if language == "english" else frozenset()
        self._ids: dict[str, int] = {}

    def __call__(self, texts: Sequence[str] | pa.StringArray) -> Tokens:
        """One row per text, with repeats, in the order of the words; a null counts as empty."""
        plain = texts.to_pylist() if hasattr(texts, "to_pylist") else texts
        ids: list[int] = []
        offsets = np.zeros(len(plain) + 1, np.int64)
        for i, text in enumerate(plain):
            for word in WORD.findall((text or "").lower()):
                term = self._ids.get(word)
                if term is None:
                    term = self._add(word)
                if term != NO_TERM:
                    ids.append(term)
            offsets[i + 1] = len(ids)
        return Tokens(np.array(ids, np.int32), offsets)

    def _add(self, word: str) -> int:
        if len(self._ids) >= CACHED_WORDS:
            self._ids.clear()
        if word in self._stop_words:
            term = NO_TERM
        else:
            stem = self._stem(word) if self._stem else word
            term = xxhash.xxh32_intdigest(stem.encode()) >> 1
        self._ids[word] = term
        return term
