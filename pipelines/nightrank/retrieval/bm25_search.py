"""BM25 for many queries at once: sparse matrices of queries x terms and terms x documents.

A product adds up a document's terms in ascending order of their ids, in float64; its score is
rounded once to float32. So a score has the same bits in any block, any shard and on any number of
threads, and is `Postings.scores` of its query to the last bit.

Of 200,000 passages and 4,096 real queries of 10 terms, a query meets 34,000 postings, a sixth of
the documents. Pruning by upper bounds (MaxScore, with the true depth-th score known beforehand)
would leave 43 % of the postings but 10,000 documents a query to be looked up singly, so everything
is added up. scipy's products run without Python's lock: threads take blocks.

Knows nothing about: vectors, words, storage.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightrank.retrieval import runs
from nightrank.retrieval.bm25 import Postings
from nightrank.storage.tokens import Tokens

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]
Matrix = Any  # a scipy.sparse.csr_matrix; scipy ships no types

# Postings added up by one product: 50 MB for its result on every thread.
BLOCK_POSTINGS = 2 << 20
# Pairs scored at once: some 20 MB at 60 terms a document.
BLOCK_PAIRS = 1 << 15
# Every n-th score of a query tells where about its depth-th lies.
STRIDE = 16
# How far such a guess stays above the depth-th: at 3 some lists of 4,096 were cut too short and
# taken whole, which cost a sixth of the time.
DEVIATIONS = 4


def search(
    postings: Postings, queries: Tokens, depth: int, threads: int = 1, dead: Bool | None = None
) -> tuple[Int32, Int64, Float32]:
    """Finds the best `depth` documents of every query, ties with the last one included.

    Args:
        postings: n documents.
        queries: q queries' term ids, repeats kept.
        depth: documents of each query.
        threads: products computed at once.
        dead: bool[n], rows that count no longer.

    Returns:
        Flat arrays of one length, by (query, row): query int32, row int64, score float32 above 0.
        A document that shares no term with the query is not found.
    """
    index, asked = _by_term(postings), _asked(queries, postings)
    lengths = np.diff(postings.offsets)
    work = _sums(lengths[asked.indices], asked.indptr)
    # Alike in work together: the padded matrices of a block are then nearly full.
    order = np.argsort(work, kind="stable")
    order = order[work[order] > 0]
    block = (np.cumsum(work[order]) - 1) // BLOCK_POSTINGS
    blocks = np.split(order, np.flatnonzero(np.diff(block)) + 1) if len(order) else []

    def one(chosen: Int64) -> tuple[Int64, Float32]:
        mine = asked[chosen]
        # Of the index only the terms asked for, or every product would convert all of it.
        used, mine.indices = np.unique(mine.indices, return_inverse=True)
        mine = _csr_matrix(
            (mine.data, mine.indices.astype(np.int32), mine.indptr), (len(chosen), len(used))
        )
        found = mine @ index[used].astype(np.float64)
        scores = found.data.astype(np.float32)
        if dead is not None:
            scores[dead[found.indices]] = 0
        at = _best(scores, found.indptr, depth)
        query = np.searchsorted(found.indptr, at, side="right") - 1
        return runs.pairs(chosen[query], found.indices[at]), scores[at]

    with ThreadPoolExecutor(max(1, threads)) as pool:
        made = list(pool.map(one, blocks))
    pair = np.concatenate([np.empty(0, np.int64), *(keys for keys, _ in made)])
    scores = np.concatenate([np.empty(0, np.float32), *(values for _, values in made)])
    order = np.argsort(pair)
    pair = pair[order]
    return (pair >> 32).astype(np.int32), pair & 0xFFFFFFFF, scores[order]


def score_pairs(
    postings: Postings, queries: Tokens, query: Int32, row: Int64, threads: int = 1
) -> Float32:
    """Scores of given pairs.

    Args:
        postings: n documents.
        queries: q queries' term ids, repeats kept.
        query: int32[m], rows of `queries`.
        row: int64[m], documents.
        threads: blocks computed at once.

    Returns:
        float32[m], 0 for a document that shares no term with the query.
    """
    asked = _asked(queries, postings)
    by_document = _by_term(postings).T.tocsr()

    def one(begin: int) -> Float32:
        part = slice(begin, begin + BLOCK_PAIRS)
        shared = by_document[row[part]].astype(np.float64).multiply(asked[query[part]]).tocsr()
        # A product with ones adds up a row in ascending order of its terms.
        return np.asarray(shared @ np.ones(shared.shape[1])).astype(np.float32)

    with ThreadPoolExecutor(max(1, threads)) as pool:
        made = list(pool.map(one, range(0, len(row), BLOCK_PAIRS)))
    return np.concatenate([np.empty(0, np.float32), *made])


def _by_term(postings: Postings) -> Matrix:
    """Terms x documents, float32, over the postings' own arrays."""
    shape = (len(postings.terms), postings.documents)
    index = _csr_matrix(shape, dtype=np.float32)
    index.data, index.indices, index.indptr = postings.impacts, postings.rows, postings.offsets
    index.has_sorted_indices = True
    return index


def _asked(queries: Tokens, postings: Postings) -> Matrix:
    """Queries x the postings' terms: how often each is asked, float64; unknown terms left out."""
    query = np.repeat(np.arange(len(queries)), queries.lengths)
    ids = queries.ids[queries.offsets[0] : queries.offsets[-1]]
    pair, often = np.unique(runs.pairs(query, ids), return_counts=True)
    term = (pair & 0xFFFFFFFF).astype(np.int32)
    at = np.searchsorted(postings.terms, term)
    known = at < len(postings.terms)
    known[known] = postings.terms[at[known]] == term[known]
    indptr = np.searchsorted(pair[known] >> 32, np.arange(len(queries) + 1))
    parts = (often[known].astype(np.float64), at[known].astype(np.int32), indptr)
    return _csr_matrix(parts, shape=(len(queries), len(postings.terms)))


def _sums(values: Int64, indptr: Int64) -> Int64:
    total = np.append(0, np.cumsum(values))
    return np.asarray(total[indptr[1:]] - total[indptr[:-1]])


def _best(scores: Float32, indptr: Int64, depth: int) -> Int64:
    """Positions of the best `depth` scores of every run, with ties, zeros left out; ascending."""
    lengths = np.diff(indptr).astype(np.int64)
    # A sample's r-th score lies below the depth-th unless the sample is so many deviations off.
    expected = depth / STRIDE
    r = math.ceil(expected + DEVIATIONS * math.sqrt(expected)) + 1
    few = -(-lengths // STRIDE)
    sample = np.repeat(indptr[:-1], few) + STRIDE * runs.within(few)
    guess = runs.nth_largest(scores[sample], few, r)
    at = np.flatnonzero((scores >= np.repeat(guess, lengths)) & (scores > 0))
    kept = np.diff(np.searchsorted(at, indptr))
    if ((kept < depth) & np.isfinite(guess)).any():
        guess[kept < depth] = -np.inf
        at = np.flatnonzero((scores >= np.repeat(guess, lengths)) & (scores > 0))
        kept = np.diff(np.searchsorted(at, indptr))
    last = runs.nth_largest(scores[at], kept, depth)
    return at[scores[at] >= np.repeat(last, kept)]


def _csr_matrix(*arguments: Any, **options: Any) -> Matrix:
    """`scipy.sparse.csr_matrix`, imported on first use.

    The import takes 0.2 s, which every command and Ray's driver would pay without a search.
    """
    from scipy import sparse

    return sparse.csr_matrix(*arguments, **options)
