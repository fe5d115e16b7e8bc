"""A hybrid first stage: the fusion of vector search and BM25.

    score = (1 - w) * z(dense_score) + w * z(bm25_score)

with z within the query's candidates: its best `depth` by either score. Every candidate has both
scores, whichever list it came from, so the fused list depends neither on shards nor on groups: the
best of the parts contain the best of the whole. An approximate index misses some documents: one
that only BM25 retrieved does not enter the dense list, however good its vector, or lists would
depend on the depth of the other search.

Knows nothing about: indexes, vectors, words, storage.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightrank.retrieval import ranking

DENSE, BM25 = "first_stage_dense_score", "first_stage_bm25_score"
FOUND_BY_VECTOR = "found_by_vector"


def best_of_either(table: pa.Table, depth: int) -> pa.Table:
    """The rows among the best `depth` of their query by dense or by BM25 score.

    Args:
        table: columns `query` int32, `doc_id` string, `DENSE` and `BM25` float32, `FOUND_BY_VECTOR`
            bool, any others; a document once per query. A BM25 score of 0 means that no term is
            shared: such a row is in no BM25 list.
        depth: rows of each list.

    Returns:
        The rows kept, sorted by query.

    Raises:
        NightrankError: as `ranking.rank`.
    """
    table = table.take(pa.array(np.argsort(table["query"].to_numpy(), kind="stable")))
    query = table["query"].to_numpy()
    queries = int(query[-1]) + 1 if len(query) else 0
    keep = np.zeros(len(query), dtype=bool)
    for name, in_list in ((DENSE, table[FOUND_BY_VECTOR]), (BM25, pc.greater(table[BM25], 0))):
        at = np.flatnonzero(in_list.to_numpy())

        def doc_ids(rows: NDArray[np.int64], at: NDArray[np.int64] = at) -> pa.Array:
            return table["doc_id"].take(pa.array(at[rows]))

        score = table[name].to_numpy()[at]
        keep[at[ranking.among_best(query[at], score, doc_ids, queries, depth)]] = True
    return table.filter(pa.array(keep))


def fuse(table: pa.Table, weight: float, depth: int) -> pa.Table:
    """Ranks candidates by the fused score.

    Args:
        table: as `best_of_either` returns it.
        weight: w, BM25's share, above 0 and below 1.
        depth: rows kept per query.

    Returns:
        The table with `score` (float32, fused) and `rank`, sorted by (query, rank).

    Raises:
        NightrankError: as `ranking.rank`.
    """
    table = table.sort_by("query")
    query, dense, bm25 = (table[name].to_numpy() for name in ("query", DENSE, BM25))
    score = ranking.fuse(bm25, dense, query, weight)
    return ranking.rank(table.append_column("score", pa.array(score, pa.float32())), depth)
