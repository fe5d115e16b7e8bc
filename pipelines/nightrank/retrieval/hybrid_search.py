"""The first stage by vectors and by BM25: both lists of a block of queries from a group of shards.

Every row of either list gets both scores. A shard's vectors list is cut exactly, ties by doc_id
included, before it meets BM25's: `found_by_vector` says that a row stands in it.

Knows nothing about: storage, generations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightrank.retrieval import (
    bm25_search,
    faiss_library,
    faiss_products,
    first_stage,
    hybrid,
    ranking,
    runs,
)
from nightrank.retrieval.first_stage import Float32, Int32, Int64, OpenShard
from nightrank.storage.tokens import Tokens


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
    if len(shards) > 1:
        found = _cut_both(found, len(queries), depth)
    tables = [
        pa.table(
            {
                **shard.table(both.query, both.row),
                hybrid.DENSE: both.dense,
                hybrid.BM25: both.bm25,
                hybrid.FOUND: both.found,
            }
        )
        for shard, both in zip(shards, found, strict=True)
    ]
    return hybrid.best_of_either(pa.concat_tables(tables), depth)


@dataclass(frozen=True, eq=False)
class Both:
    """Both lists of one shard, by (query, row): every row once, with both scores."""

    query: Int32
    row: Int64
    dense: Float32
    bm25: Float32
    found: NDArray[np.bool_]

    def where(self, keep: NDArray[np.bool_]) -> Both:
        """The rows of a mask."""
        dense, bm25, found = self.dense[keep], self.bm25[keep], self.found[keep]
        return Both(self.query[keep], self.row[keep], dense, bm25, found)


def _both_of_shard(
    queries: Float32, terms: Tokens, shard: OpenShard, depth: int, parameters: str
) -> Both:
    postings = shard.postings
    if postings is None:
        raise ValueError("BM25 needs shards with postings")
    threads = faiss_library.threads()
    hits = first_stage.search_shard(queries, shard, depth, parameters)
    if faiss_products.scores_are_products(shard.index):
        slack = 2 * first_stage.error_bound(queries, shard)
        hits = first_stage.cut([hits], len(queries), depth, slack)[0]
    hits = hits.scored(queries, shard)
    columns = hits.query, hits.score, lambda at: shard.doc_ids.take(pa.array(hits.row[at]))
    hits = hits.where(ranking.among_best(*columns, len(queries), depth))
    lexical = bm25_search.search(postings, terms, depth, threads, shard.dead)
    pair = np.concatenate([runs.pairs(hits.query, hits.row), runs.pairs(*lexical[:2])])
    order = np.argsort(pair, kind="stable")
    pair = pair[order]
    first = np.flatnonzero(np.append(pair[:1] == pair[:1], pair[1:] != pair[:-1]))
    last = np.append(first[1:], len(pair))[: len(first)] - 1
    query, row = (pair[first] >> 32).astype(np.int32), pair[first] & 0xFFFFFFFF
    # A stable sort: of two equal pairs the vectors' comes first.
    found, shared = order[first] < len(hits.query), order[last] >= len(hits.query)
    dense, lexically = np.empty(len(first), np.float32), np.empty(len(first), np.float32)
    dense[found] = hits.score[order[first[found]]]
    dense[~found] = shard.scores(queries, query[~found], row[~found])
    lexically[shared] = lexical[2][order[last[shared]] - len(hits.query)]
    lexically[~shared] = bm25_search.score_pairs(
        postings, terms, query[~shared], row[~shared], threads
    )
    return Both(query, row, dense, lexically, found)


def _cut_both(parts: list[Both], queries: int, depth: int) -> list[Both]:
    """Drops what is below the depth-th of both lists of all parts: texts are read of the rest."""
    dense = [(both.query[both.found], both.dense[both.found]) for both in parts]
    last_dense = runs.nth_of_parts(dense, queries, depth)
    last_bm25 = runs.nth_of_parts([(both.query, both.bm25) for both in parts], queries, depth)
    kept = []
    for both in parts:
        keep = (both.found & (both.dense >= last_dense[both.query])) | (
            (both.bm25 > 0) & (both.bm25 >= last_bm25[both.query])
        )
        kept.append(both.where(keep))
    return kept
