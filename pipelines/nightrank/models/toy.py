"""Toy models: deterministic, instant, without torch.

With them the whole pipeline runs in about a second, with meaningful rankings on small collections.
Every operation is on integers or is a single correctly rounded IEEE operation, so their outputs are
bit-identical on any platform.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightrank.models.protocols import Kind
from nightrank.models.text.batching import SPENT
from nightrank.storage.tokens import Tokens

TOKENIZER = "toy-words-1"
CAP_TOKENS = 4096
DEFAULT_DIMENSION = 64
BIGRAM_WEIGHT = 0.25
DENSITY_WEIGHT = 0.125
WORD = re.compile(r"\w+")


@lru_cache(maxsize=1 << 18)
def word_id(word: str) -> int:
    """31 bits of the word's BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "little") >> 1


class ToyTokenizer:
    """Lower-cased words to hashed ids."""

    def __call__(self, texts: Sequence[str] | pa.StringArray) -> Tokens:
        """One row per text; a null counts as an empty text."""
        plain = texts.to_pylist() if hasattr(texts, "to_pylist") else texts
        return Tokens.from_lists(
            [word_id(word) for word in WORD.findall((text or "").lower())[:CAP_TOKENS]]
            for text in plain
        )


class ToyBiEncoder:
    """A signed bag of hashed words.

    Each word adds +1 or -1 to two coordinates chosen by its id (feature hashing, Weinberger et al.
    2009), and the sum is scaled to unit length; a text without words is the zero vector.

    Args:
        dimension: width of the vectors.
        max_length_tokens: words that count.
    """

    def __init__(self, dimension: int, max_length_tokens: int) -> None:
        self.dimension = dimension
        self.max_length_tokens = max_length_tokens

    def encode(self, tokens: Tokens, kind: Kind) -> NDArray[np.float32]:
        """float32 [n, dimension]; queries and documents are encoded alike."""
        SPENT.cut += int((tokens.lengths > self.max_length_tokens).sum())
        cut = tokens.truncate(self.max_length_tokens)
        rows = np.repeat(np.arange(len(cut)), cut.lengths)
        words = cut.ids[cut.offsets[0] : cut.offsets[-1]].astype(np.uint64)
        counts = np.zeros((len(cut), self.dimension), dtype=np.int64)
        for salt in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F):
            mixed = (words + np.uint64(1)) * np.uint64(salt)
            column = (mixed >> np.uint64(33)) % np.uint64(self.dimension)
            sign = 1 - 2 * ((mixed >> np.uint64(32)) & np.uint64(1)).astype(np.int64)
            np.add.at(counts, (rows, column.astype(np.int64)), sign)
        norms = np.sqrt((counts * counts).sum(axis=1).astype(np.float64))
        norms[norms == 0.0] = 1.0
        return (counts / norms[:, None]).astype(np.float32)


class ToyCrossEncoder:
    """Word overlap, in [0, 1.375].

    ``shared / |query| + 0.25 * shared bigrams / |query bigrams| + 0.125 * shared / |document|``
    over distinct words; an empty side scores 0.

    Args:
        max_length_tokens: words of a pair that count; the query keeps up to half of them.
    """

    def __init__(self, max_length_tokens: int) -> None:
        self.max_length_tokens = max_length_tokens

    def score(
        self, queries: Tokens, documents: Tokens, pairs: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """float32 [n], in the order of `pairs`."""
        half = max(1, self.max_length_tokens // 2)
        query_words = [row[:half] for row in queries.to_lists()]
        document_words = documents.to_lists()
        scores = np.zeros(len(pairs), dtype=np.float64)
        for position, (query, document) in enumerate(pairs.tolist()):
            words = query_words[query]
            room = self.max_length_tokens - len(words)
            is_cut = queries.lengths[query] > half or len(document_words[document]) > room
            SPENT.cut += int(is_cut)
            scores[position] = _overlap(words, document_words[document][:room])
        return scores.astype(np.float32)


def _overlap(query: list[int], document: list[int]) -> float:
    """The formula of `ToyCrossEncoder`."""
    query_words, document_words = set(query), set(document)
    if not query_words or not document_words:
        return 0.0
    shared = len(query_words & document_words)
    bigrams = set(zip(query, query[1:], strict=False))
    shared_bigrams = len(bigrams & set(zip(document, document[1:], strict=False)))
    bonus = BIGRAM_WEIGHT * shared_bigrams / len(bigrams) if bigrams else 0.0
    return shared / len(query_words) + bonus + DENSITY_WEIGHT * shared / len(document_words)
