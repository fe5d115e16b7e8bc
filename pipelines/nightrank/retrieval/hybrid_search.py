"""The hybrid first stage: dense and BM25 lists of a block of queries from a group of index shards.

Every row of either list gets both scores. The dense list of a shard is cut exactly, ties by doc_id
included, before it is joined with the BM25 list: `found_by_vector` marks its rows.

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
    ragged,
    ranking,
)
from nightrank.retrieval.first_stage import Float32, Int32, Int64, OpenShard
from nightrank.storage.tokens import Tokens


def search_both(
    queries: Float32, terms: Tokens, shards: list[OpenShard], depth: int, parameters: str = ""
) -> pa.Table:
    """Finds the best `depth` documents of a group by vector and by BM25 score, for every query.

    Args:
        queries: float32[q, d]; a row's position is its `query`.
        terms: the term ids of the same queries.
        shards: disjoint sets of documents, all with postings.
        depth: candidates kept per query and list.
        parameters: FAISS search parameters.

    Returns:
        Columns `query`, `ordinal`, `doc_id` and those of `hybrid`, at most 2 * `depth` rows per
        query, sorted by query.

    Raises:
        NightrankError: as `search_group`.
    """
    parts = [_search_shard(queries, terms, shard, depth, parameters) for shard in shards]
    if len(shards) > 1:
        parts = _cut(parts, len(queries), depth)
    tables = [
        pa.table(
            {
                **shard.columns(part.query, part.row),
                hybrid.DENSE: part.dense,
                hybrid.BM25: part.bm25,
                hybrid.FOUND_BY_VECTOR: part.found_by_vector,
            }
        )
        for shard, part in zip(shards, parts, strict=True)
    ]
    return hybrid.best_of_either(pa.concat_tables(tables), depth)


@dataclass(frozen=True, eq=False)
class BothLists:
    """The dense and the BM25 list of one shard, by (query, row): each row once, with both scores.

    Arrays of one length; `found_by_vector` marks the rows of the dense list.
    """

    query: Int32
    row: Int64
    dense: Float32
    bm25: Float32
    found_by_vector: NDArray[np.bool_]

    def where(self, keep: NDArray[np.bool_]) -> BothLists:
        """The rows where a mask is true."""
        dense, bm25, by_vector = self.dense[keep], self.bm25[keep], self.found_by_vector[keep]
        return BothLists(self.query[keep], self.row[keep], dense, bm25, by_vector)


def _search_shard(
    queries: Float32, terms: Tokens, shard: OpenShard, depth: int, parameters: str
) -> BothLists:
    postings = shard.postings
    if postings is None:
        raise ValueError("expected a shard with postings, found one without")
    threads = faiss_library.threads()
    hits = first_stage.search_shard(queries, shard, depth, parameters)
    if faiss_products.scores_are_products(shard.index):
        slack = 2 * first_stage.error_bound(queries, shard)
        hits = first_stage.cut([hits], len(queries), depth, slack)[0]
    hits = hits.scored(queries, shard)
    columns = hits.query, hits.score, lambda at: shard.doc_ids.take(pa.array(hits.row[at]))
    hits = hits.where(ranking.among_best(*columns, len(queries), depth))
    bm25_query, bm25_row, bm25_score = bm25_search.search(
        postings, terms, depth, threads, shard.tombstoned
    )
    pair = np.concatenate([ragged.pairs(hits.query, hits.row), ragged.pairs(bm25_query, bm25_row)])
    order = np.argsort(pair, kind="stable")
    pair = pair[order]
    first = np.flatnonzero(np.append(pair[:1] == pair[:1], pair[1:] != pair[:-1]))
    last = np.append(first[1:], len(pair))[: len(first)] - 1
    query, row = (pair[first] >> 32).astype(np.int32), pair[first] & 0xFFFFFFFF
    # The sort is stable: of two equal pairs, the one of the dense list comes first.
    by_vector, by_bm25 = order[first] < len(hits.query), order[last] >= len(hits.query)
    dense, bm25 = np.empty(len(first), np.float32), np.empty(len(first), np.float32)
    dense[by_vector] = hits.score[order[first[by_vector]]]
    dense[~by_vector] = shard.scores(queries, query[~by_vector], row[~by_vector])
    bm25[by_bm25] = bm25_score[order[last[by_bm25]] - len(hits.query)]
    others = query[~by_bm25], row[~by_bm25]
    bm25[~by_bm25] = bm25_search.score_pairs(postings, terms, *others, threads)
    return BothLists(query, row, dense, bm25, by_vector)


def _cut(parts: list[BothLists], queries: int, depth: int) -> list[BothLists]:
    """Drops rows below the depth-th score of both lists of all parts: their ids are not read."""
    dense = [(part.query[part.found_by_vector], part.dense[part.found_by_vector]) for part in parts]
    last_dense = ragged.nth_of_parts(dense, queries, depth)
    last_bm25 = ragged.nth_of_parts([(part.query, part.bm25) for part in parts], queries, depth)
    kept = []
    for part in parts:
        in_dense = part.found_by_vector & (part.dense >= last_dense[part.query])
        in_bm25 = (part.bm25 > 0) & (part.bm25 >= last_bm25[part.query])
        kept.append(part.where(in_dense | in_bm25))
    return kept
