"""BM25: an inverted index of one shard, with frozen statistics of the whole corpus.

A document's score for a query, over the query's terms t (Lucene's form, as in Kamphuis et al.,
"Which BM25 Do You Mean?", ECIR 2020)::

    sum_t  qtf(t) * idf(t) * tf(t) / (tf(t) + k1 * (1 - b + b * length / mean_length))
    idf(t) = ln(1 + (N - df(t) + 0.5) / (df(t) + 0.5))

N, df and mean_length come from `Statistics`, not from the shard: they are counted once and frozen
with the index template, so that a document's score depends on the document and the query alone, and
lists of any shards and runs can be merged. A term without statistics has df 0.

Knows nothing about: words, vectors, storage.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightrank.storage.tokens import Tokens

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]


def counts(texts: Tokens) -> tuple[Int32, Int32, Int32]:
    """Rows, terms and frequencies of the distinct terms of each text, by (term, row); int32[m]."""
    row = np.repeat(np.arange(len(texts), dtype=np.int64), texts.lengths)
    key, frequency = np.unique(texts.ids.astype(np.int64) << 32 | row, return_counts=True)
    rows, terms = key & 0xFFFFFFFF, key >> 32
    return rows.astype(np.int32), terms.astype(np.int32), frequency.astype(np.int32)


@dataclass(frozen=True, eq=False)
class Statistics:
    """The statistics of a whole corpus that BM25 needs.

    Attributes:
        documents: N.
        total_terms: sum of the documents' lengths.
        terms: int32 [t], ascending.
        frequencies: int64 [t], number of documents with the term.
    """

    documents: int
    total_terms: int
    terms: Int32
    frequencies: Int64

    def idf(self, terms: Int32) -> NDArray[np.float64]:
        """The idf of each term, float64 [len(terms)]."""
        frequency = np.zeros(len(terms), np.float64)
        if len(self.terms):
            at = np.minimum(np.searchsorted(self.terms, terms), len(self.terms) - 1)
            frequency = np.where(self.terms[at] == terms, self.frequencies[at], 0).astype(
                np.float64
            )
        return np.log1p((self.documents - frequency + 0.5) / (frequency + 0.5))


def count(parts: Iterable[Tokens]) -> Statistics:
    """The statistics of a corpus that is read in parts.

    Args:
        parts: disjoint sets of documents.
    """
    documents = total = 0
    terms, frequencies = np.zeros(0, np.int32), np.zeros(0, np.int64)
    for part in parts:
        documents, total = documents + len(part), total + len(part.ids)
        _, term_of_row, _ = counts(part)
        part_terms, part_frequencies = np.unique(term_of_row, return_counts=True)
        terms, place = np.unique(np.concatenate([terms, part_terms]), return_inverse=True)
        # Exact: counts stay far below 2**53.
        both = np.concatenate([frequencies, part_frequencies])
        summed = np.bincount(place, both, len(terms))
        frequencies = summed.astype(np.int64)
    return Statistics(documents, total, terms, frequencies)


@dataclass(frozen=True, eq=False)
class Postings:
    """An inverted index of n documents.

    Attributes:
        terms: int32 [t], ascending.
        offsets: int64 [t + 1], positions in `rows` and `impacts`.
        rows: int32 [p], the documents with the term, ascending within a term.
        impacts: float32 [p], idf times the term frequency part of the sum above.
        documents: n.
    """

    terms: Int32
    offsets: Int64
    rows: Int32
    impacts: Float32
    documents: int

    def scores(self, query: Int32) -> Float32:
        """Every document's score.

        Args:
            query: int32, the query's term ids, with repeats.

        Returns:
            float32 [n]; summed in float64 in ascending order of the terms' ids, so that a document
            has the same score in any shard.
        """
        terms, frequency = np.unique(query, return_counts=True)
        at = np.searchsorted(self.terms, terms)
        known = np.flatnonzero(at < len(self.terms))
        known = known[self.terms[at[known]] == terms[known]]
        total = np.zeros(self.documents)
        for i in known:
            part = slice(self.offsets[at[i]], self.offsets[at[i] + 1])
            # A document occurs once in a term's postings: each index is added to at most once.
            total[self.rows[part]] += frequency[i] * self.impacts[part].astype(np.float64)
        return total.astype(np.float32)


def build(documents: Tokens, statistics: Statistics, k1: float, b: float) -> Postings:
    """Builds the inverted index of one shard.

    Args:
        documents: n documents, in the order of their rows.
        statistics: of the whole corpus.
        k1: how slowly a repeated term stops counting, at least 0.
        b: how much the length of a document counts, within 0 to 1.
    """
    row, term, frequency = counts(documents)
    mean = statistics.total_terms / max(1, statistics.documents) or 1.0
    length = documents.lengths / mean
    saturation = frequency / (frequency + k1 * (1.0 - b + b * length[row]))
    impacts = (statistics.idf(term) * saturation).astype(np.float32)
    terms, starts = np.unique(term, return_index=True)
    offsets = np.append(starts, len(term)).astype(np.int64)
    return Postings(terms, offsets, row, impacts, len(documents))
