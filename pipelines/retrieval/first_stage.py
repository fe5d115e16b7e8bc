"""The first stage: candidates of one block of queries from a group of index shards.

FAISS proposes rows; scores are then recomputed from the stored vectors, in float64, rounded to
float32, by a summation that gives the same bits on any CPU and in any batch. So a candidate's
score depends on its two vectors alone, not on the index, its shards or the machine.

For a Flat index the lists equal an exact search, ties included, for any split into shards: more
rows than `depth` are fetched, and again twice as many for each query where a row not fetched
might still reach the depth-th score.

Where shards have postings, the best of BM25 are found as well, and every row of either list gets
both scores.

Rows that are dead (their document is gone or was replaced) take part in no list: more is fetched,
and fetched again where a list comes short.

Knows nothing about: storage, generations.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.errors import NightrankError
from pipelines.retrieval import bm25, faiss_index, hybrid, ranking
from pipelines.tokens import Tokens

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

# Pairs fetched from FAISS at once, over all queries of a block: about 100 MB of rows and scores.
# Large blocks matter: exact search of 4096 queries at once runs 9 times as fast as of 256.
BLOCK_PAIRS = 4 << 20
# Products of one rescoring block, in bytes; stays in a core's cache.
PRODUCT_BYTES = 1 << 20
SCHEMA = pa.schema(
    [
        ("query", pa.int32()),
        ("ordinal", pa.int64()),
        ("doc_id", pa.string()),
        ("score", pa.float32()),
        ("rank", pa.int32()),
    ]
)


@dataclass(frozen=True, eq=False)
class OpenShard:
    """An index shard in memory; row i of everything is the same document.

    Attributes:
        index: a FAISS index of n rows.
        ordinals: int64[n].
        doc_ids: string[n].
        vectors: float32[n, d], e.g. `faiss_index.flat_vectors(index)` where that is not None.
        postings: of the same n documents, where BM25 is searched too.
        dead: bool[n], rows that count no longer; None where all are alive.
    """

    index: faiss_index.Index
    ordinals: Int64
    doc_ids: pa.Array
    vectors: Float32
    postings: bm25.Postings | None = None
    dead: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        """Refuses parts of different lengths: a shifted row would be another document's score."""
        rows = {
            "index": self.index.ntotal,
            "ordinals": len(self.ordinals),
            "doc_ids": len(self.doc_ids),
            "vectors": len(self.vectors),
        }
        if self.postings is not None:
            rows["postings"] = self.postings.documents
        if self.dead is not None:
            rows["dead"] = len(self.dead)
        if len(set(rows.values())) > 1:
            found = ", ".join(f"{name} {n}" for name, n in rows.items())
            what = f"an index shard's parts differ in rows: {found}"
            raise NightrankError("E_CORRUPT", what, "", "run verify, then build the index again")

    @functools.cached_property
    def largest_norm(self) -> float:
        """The largest Euclidean norm among the vectors; 0 without any."""
        squares = np.einsum("ij,ij->i", self.vectors, self.vectors)
        return float(np.sqrt(squares.max(initial=0.0)))


def search_group(
    queries: Float32, shards: list[OpenShard], depth: int, parameters: str = ""
) -> pa.Table:
    """Finds the best `depth` documents of a group of shards for every query.

    Args:
        queries: float32[q, d]; a row's position is its `query`.
        shards: disjoint sets of documents.
        depth: candidates kept per query.
        parameters: FAISS search parameters, e.g. `nprobe=32`.

    Returns:
        `SCHEMA`, sorted by (query, rank), at most `depth` rows per query.

    Raises:
        NightrankError: E_CORRUPT for vectors that are not finite or a document in two shards,
            E_CONFIG for parameters that an index does not take.
    """
    found = [_search_shard(queries, shard, depth, parameters) for shard in shards]
    return ranking.merge([*found, SCHEMA.empty_table()], depth).select(SCHEMA.names)


def search_both(
    queries: Float32, terms: Tokens, shards: list[OpenShard], depth: int, parameters: str = ""
) -> pa.Table:
    """Finds the best `depth` documents of a group by vectors, and by BM25, for every query.

    Args:
        queries: float32[q, d]; a row's position is its `query`.
        terms: the same queries' term ids.
        shards: disjoint sets of documents, all with postings.
        depth: candidates kept per query and list.
        parameters: FAISS search parameters.

    Returns:
        Columns `query`, `ordinal`, `doc_id` and those of `hybrid`, at most 2 * `depth` rows per
        query, sorted by query.

    Raises:
        NightrankError: as `search_group`.
    """
    found = [_both_of_shard(queries, terms, shard, depth, parameters) for shard in shards]
    return hybrid.best_of_either(pa.concat_tables(found), depth)


def exact_scores(queries: Float32, vectors: Float32, query: Int32, row: Int64) -> Float32:
    """Computes inner products of given pairs, the same bits on any CPU and in any batch.

    A product of two float32 is exact in float64. The sum runs as a binary tree of element-wise
    additions, whose order is fixed by d alone; library reductions (BLAS, einsum, np.sum) order
    theirs by vector width and block shape.

    Args:
        queries: float32[q, d].
        vectors: float32[n, d].
        query: int32[m], rows of `queries`.
        row: int64[m], rows of `vectors`.

    Returns:
        float32[m], rounded once, from the float64 sum.
    """
    scores = np.empty(len(row), np.float32)
    dimension = queries.shape[1]
    if not dimension:
        return np.zeros(len(row), np.float32)
    step = max(1, PRODUCT_BYTES // (8 * dimension))
    for begin in range(0, len(row), step):
        part = slice(begin, begin + step)
        products = vectors[row[part]].astype(np.float64)
        products *= queries[query[part]]
        width = dimension
        while width > 1:
            half = width // 2
            # An odd column stays in place, behind the sums, for the next round.
            products[:, :half] += products[:, half : 2 * half]
            if width % 2:
                products[:, half] = products[:, width - 1]
            width = half + width % 2
        scores[part] = products[:, 0]
    return scores


def _both_of_shard(
    queries: Float32, terms: Tokens, shard: OpenShard, depth: int, parameters: str
) -> pa.Table:
    """Both lists of one shard as one, every row with both scores."""
    postings = shard.postings
    if postings is None:
        raise ValueError("BM25 needs shards with postings")
    dense = _search_shard(queries, shard, depth, parameters)
    # Ordinals ascend within a shard: rows follow documents.
    dense_rows = np.searchsorted(shard.ordinals, dense["ordinal"].to_numpy())
    order = np.argsort(dense["query"].to_numpy(), kind="stable")
    starts = np.searchsorted(dense["query"].to_numpy()[order], np.arange(len(queries) + 1))
    query_parts, row_parts, score_parts, found_parts = [], [], [], []
    for query in range(len(queries)):
        scores = postings.scores(terms[query])
        if shard.dead is not None:
            scores[shard.dead] = 0  # A row that shares no word stands in no BM25 list.
        mine = dense_rows[order[starts[query] : starts[query + 1]]]
        rows = np.union1d(mine, bm25.best(scores, depth))
        query_parts.append(np.full(len(rows), query, np.int32))
        row_parts.append(rows.astype(np.int64))
        score_parts.append(scores[rows])
        found_parts.append(np.isin(rows, mine))
    query_of = np.concatenate([np.empty(0, np.int32), *query_parts])
    row = np.concatenate([np.empty(0, np.int64), *row_parts])
    lexical = np.concatenate([np.empty(0, np.float32), *score_parts])
    return pa.table(
        {
            "query": query_of,
            "ordinal": shard.ordinals[row],
            "doc_id": shard.doc_ids.take(pa.array(row)),
            hybrid.DENSE: exact_scores(queries, shard.vectors, query_of, row),
            hybrid.BM25: lexical,
            hybrid.FOUND: np.concatenate([np.empty(0, bool), *found_parts]),
        }
    )


def _search_shard(queries: Float32, shard: OpenShard, depth: int, parameters: str) -> pa.Table:
    """Searches one shard; every query's list is complete, ties included, down to its last score."""
    alive = len(shard.ordinals) - int(shard.dead.sum()) if shard.dead is not None else None
    wanted = depth + max(10, depth // 10)
    if alive is not None:
        wanted = -(-wanted * len(shard.ordinals) // max(alive, 1))
    fetch = min(wanted, len(shard.ordinals)) if alive != 0 else 0
    pending = np.arange(len(queries), dtype=np.int32)
    done = [SCHEMA.empty_table()]
    while len(pending) and fetch:
        block = max(1, BLOCK_PAIRS // fetch)
        again = []
        for begin in range(0, len(pending), block):
            some = pending[begin : begin + block]
            table, open_ended = _fetch(queries, shard, some, fetch, depth, parameters)
            done.append(table)
            again.append(open_ended)
        pending = np.concatenate(again)
        fetch = min(2 * fetch, len(shard.ordinals))
    return pa.concat_tables(done)


def _fetch(
    queries: Float32, shard: OpenShard, some: Int32, fetch: int, depth: int, parameters: str
) -> tuple[pa.Table, Int32]:
    """Fetches once; returns the finished lists, and the queries that need a longer fetch."""
    wanted = queries[some]
    local, row, approximate = faiss_index.search(shard.index, wanted, fetch, parameters)
    alive = ~shard.dead[row] if shard.dead is not None else np.ones(len(row), bool)
    hits = np.bincount(local, minlength=len(some))
    living = np.bincount(local[alive], minlength=len(some))
    # Fewer hits than asked for, or all rows there are: a longer fetch has nothing to add.
    unfinished = (hits == fetch) & (fetch < len(shard.ordinals)) & (fetch > depth)
    # Of those, lists with `depth` living rows are done unless the last row fetched may tie.
    full = np.flatnonzero(unfinished & (living >= depth))
    last = approximate[np.cumsum(hits)[full] - 1].astype(np.float64)
    ends = np.cumsum(living)[full]
    depth_th = approximate[alive][ends - living[full] + depth - 1].astype(np.float64)
    # Both scores are FAISS's own: a lossy index misjudges whole lists, and measured against exact
    # scores would look tied to its end. One error for the depth-th, one for a row not fetched.
    unfinished[full] = last + 2 * _error(wanted[full], shard) >= depth_th
    keep = alive & ~unfinished[local]
    local, row = local[keep], row[keep]
    score = exact_scores(wanted, shard.vectors, local, row)
    table = pa.table(
        {
            "query": pa.array(some[local], pa.int32()),
            "ordinal": pa.array(shard.ordinals[row], pa.int64()),
            "doc_id": shard.doc_ids.take(pa.array(row)),
            "score": pa.array(score, pa.float32()),
        }
    )
    return ranking.rank(table, depth).select(SCHEMA.names), some[unfinished]


def _error(queries: Float32, shard: OpenShard) -> NDArray[np.float64]:
    """Bounds how far a float32 inner product can lie from the exact one, for every query.

    (d + 2) * 2^-24 * |q| * max |x| holds for any order of summation (Higham, Accuracy and Stability
    of Numerical Algorithms, 2nd ed., section 3.1), the rounding of the exact score included: 2e-5
    for unit vectors of 384 dimensions. A relative tolerance would be no bound: an inner product
    near 0 has the error of its terms.
    """
    norms = np.sqrt(np.einsum("ij,ij->i", queries, queries, dtype=np.float64))
    # 1.001 covers the norms' own rounding and the bound's terms of second order.
    return 1.001 * (queries.shape[1] + 2) * 2.0**-24 * norms * shard.largest_norm
