"""BM25 for many queries at once: sparse matrices of queries x terms and terms x documents.

A product sums a document's terms in ascending order of their ids, in float64, and the sum is
rounded once to float32. So a score has the same bits in any block, any shard and with any number of
threads, and equals `Postings.scores` of its query.

With 200,000 passages and 4,096 real queries of 10 terms, a query touches 34,000 postings, of a
sixth of the documents. Pruning by upper bounds (MaxScore, with the true depth-th score known in
advance) would leave 43 % of the postings, but 10,000 single look-ups per query, so all postings are
summed. scipy's products release Python's lock: threads work on blocks.

Knows nothing about: vectors, words, storage.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightrank.retrieval import ragged
from nightrank.retrieval.bm25 import Postings
from nightrank.storage.tokens import Tokens

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]
Matrix = Any  # a scipy.sparse.csr_matrix; scipy ships no types

# Postings of one product: its result takes 50 MB on every thread.
BLOCK_POSTINGS = 2 << 20
# Pairs scored at once: some 20 MB at 60 terms a document.
BLOCK_PAIRS = 1 << 15
# Every n-th score of a query is a sample from which its depth-th score is estimated.
STRIDE = 16
# The margin of this estimate, in standard deviations: at 3 some lists of 4,096 were cut too short
# and searched again without an estimate, which cost a sixth of the time.
DEVIATIONS = 4


def search(
    postings: Postings,
    queries: Tokens,
    depth: int,
    threads: int = 1,
    tombstoned: Bool | None = None,
) -> tuple[Int32, Int64, Float32]:
    """Finds the best `depth` documents of every query, ties with the last one included.

    Args:
        postings: n documents.
        queries: the term ids of q queries, with repeats.
        depth: documents of each query.
        threads: products computed at once.
        tombstoned: bool[n], rows that are not candidates.

    Returns:
        Flat arrays of one length, by (query, row): query int32, row int64, score float32 above 0.
        A document that shares no term with the query is no candidate.
    """
    index, query_terms = _by_term(postings), _by_query(queries, postings)
    lengths = np.diff(postings.offsets)
    work = _sums(lengths[query_terms.indices], query_terms.indptr)
    # Queries of similar work share a block: its padded matrices are then nearly full.
    order = np.argsort(work, kind="stable")
    order = order[work[order] > 0]
    block = (np.cumsum(work[order]) - 1) // BLOCK_POSTINGS
    blocks = np.split(order, np.flatnonzero(np.diff(block)) + 1) if len(order) else []

    def search_block(chosen: Int64) -> tuple[Int64, Float32]:
        weights = query_terms[chosen]
        # Only the terms of these queries: a product would convert all of the index.
        used, columns = np.unique(weights.indices, return_inverse=True)
        weights = _csr_matrix(
            (weights.data, columns.astype(np.int32), weights.indptr), (len(chosen), len(used))
        )
        product = weights @ index[used].astype(np.float64)
        scores = product.data.astype(np.float32)
        if tombstoned is not None:
            scores[tombstoned[product.indices]] = 0
        at = _best(scores, product.indptr, depth)
        query = np.searchsorted(product.indptr, at, side="right") - 1
        return ragged.pairs(chosen[query], product.indices[at]), scores[at]

    with ThreadPoolExecutor(max(1, threads)) as pool:
        results = list(pool.map(search_block, blocks))
    pair = np.concatenate([np.empty(0, np.int64), *(pairs for pairs, _ in results)])
    scores = np.concatenate([np.empty(0, np.float32), *(values for _, values in results)])
    order = np.argsort(pair)
    pair = pair[order]
    return (pair >> 32).astype(np.int32), pair & 0xFFFFFFFF, scores[order]


def score_pairs(
    postings: Postings, queries: Tokens, query: Int32, row: Int64, threads: int = 1
) -> Float32:
    """Scores of given pairs.

    Args:
        postings: n documents.
        queries: the term ids of q queries, with repeats.
        query: int32[m], rows of `queries`.
        row: int64[m], documents.
        threads: blocks computed at once.

    Returns:
        float32[m], 0 for a document that shares no term with the query.
    """
    query_terms = _by_query(queries, postings)
    by_document = _by_term(postings).T.tocsr()

    def score_block(begin: int) -> Float32:
        part = slice(begin, begin + BLOCK_PAIRS)
        documents = by_document[row[part]].astype(np.float64)
        shared = documents.multiply(query_terms[query[part]]).tocsr()
        # A product with ones sums a row in ascending order of its terms.
        return np.asarray(shared @ np.ones(shared.shape[1])).astype(np.float32)

    with ThreadPoolExecutor(max(1, threads)) as pool:
        blocks = list(pool.map(score_block, range(0, len(row), BLOCK_PAIRS)))
    return np.concatenate([np.empty(0, np.float32), *blocks])


def _by_term(postings: Postings) -> Matrix:
    """Terms x documents, float32; shares the arrays of the postings."""
    shape = (len(postings.terms), postings.documents)
    index = _csr_matrix(shape, dtype=np.float32)
    index.data, index.indices, index.indptr = postings.impacts, postings.rows, postings.offsets
    index.has_sorted_indices = True
    return index


def _by_query(queries: Tokens, postings: Postings) -> Matrix:
    """Queries x the postings' terms: frequencies, float64; unknown terms are omitted."""
    query = np.repeat(np.arange(len(queries)), queries.lengths)
    ids = queries.ids[queries.offsets[0] : queries.offsets[-1]]
    pair, frequency = np.unique(ragged.pairs(query, ids), return_counts=True)
    term = (pair & 0xFFFFFFFF).astype(np.int32)
    at = np.searchsorted(postings.terms, term)
    known = at < len(postings.terms)
    known[known] = postings.terms[at[known]] == term[known]
    indptr = np.searchsorted(pair[known] >> 32, np.arange(len(queries) + 1))
    parts = (frequency[known].astype(np.float64), at[known].astype(np.int32), indptr)
    return _csr_matrix(parts, shape=(len(queries), len(postings.terms)))


def _sums(values: Int64, indptr: Int64) -> Int64:
    total = np.append(0, np.cumsum(values))
    return np.asarray(total[indptr[1:]] - total[indptr[:-1]])


def _best(scores: Float32, indptr: Int64, depth: int) -> Int64:
    """Positions of the best `depth` scores of every row, with ties, without zeros; ascending."""
    lengths = np.diff(indptr).astype(np.int64)
    # The r-th score of the sample is below the depth-th, unless it deviates by `DEVIATIONS`.
    expected = depth / STRIDE
    r = math.ceil(expected + DEVIATIONS * math.sqrt(expected)) + 1
    sampled = -(-lengths // STRIDE)
    sample = np.repeat(indptr[:-1], sampled) + STRIDE * ragged.within(sampled)
    estimate = ragged.nth_largest(scores[sample], sampled, r)
    at = np.flatnonzero((scores >= np.repeat(estimate, lengths)) & (scores > 0))
    kept = np.diff(np.searchsorted(at, indptr))
    if ((kept < depth) & np.isfinite(estimate)).any():
        estimate[kept < depth] = -np.inf
        at = np.flatnonzero((scores >= np.repeat(estimate, lengths)) & (scores > 0))
        kept = np.diff(np.searchsorted(at, indptr))
    last = ragged.nth_largest(scores[at], kept, depth)
    return at[scores[at] >= np.repeat(last, kept)]


def _csr_matrix(*arguments: Any, **options: Any) -> Matrix:
    """`scipy.sparse.csr_matrix`, imported on first use.

    The import takes 0.2 s, which commands and Ray's driver, which never search, do not pay.
    """
    from scipy import sparse

    return sparse.csr_matrix(*arguments, **options)
