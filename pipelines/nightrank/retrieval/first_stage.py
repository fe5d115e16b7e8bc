"""The first stage: candidates of one block of queries from a group of index shards.

FAISS proposes rows, and their scores are recomputed from the stored vectors (`scoring`). So the
score of a candidate depends on two vectors alone, not on the index, its shards or the machine.
Where the scores of FAISS are products of the stored vectors up to rounding, rows that rounding
cannot lift into the list are dropped first, over all shards of the group.

With a Flat index the lists equal an exact search, ties included, for any division into shards: more
rows than `depth` are fetched, and twice as many again for each query where a row that was not
fetched could still reach the depth-th score.

Tombstoned rows (their document was deleted or replaced) are no candidates: more rows are fetched,
and more again where a list is too short.

Knows nothing about: storage, generations.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightrank.errors import NightrankError
from nightrank.retrieval import (
    bm25,
    faiss_index,
    faiss_library,
    faiss_products,
    ragged,
    ranking,
    scoring,
)

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

# Pairs fetched from FAISS at once, over all queries of a block: about 100 MB of rows and scores.
# Large blocks matter: exact search of 4,096 queries at once is 9 times as fast as of 256.
BLOCK_PAIRS = 4 << 20
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
    """An index shard in memory; row i of each part is the same document.

    Attributes:
        index: a FAISS index of n rows.
        ordinals: int64[n].
        doc_ids: string[n].
        vectors: float32[n, d], e.g. `faiss_library.flat_vectors(index)` where that is not None.
        postings: of the same n documents, where BM25 is searched too.
        tombstoned: bool[n], rows that are no candidates; None where there are none.
    """

    index: faiss_library.Index
    ordinals: Int64
    doc_ids: pa.Array
    vectors: Float32
    postings: bm25.Postings | None = None
    tombstoned: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        """Refuses parts of different lengths: a shifted row would get another document's score."""
        rows = {
            "index": self.index.ntotal,
            "ordinals": len(self.ordinals),
            "doc_ids": len(self.doc_ids),
            "vectors": len(self.vectors),
        }
        if self.postings is not None:
            rows["postings"] = self.postings.documents
        if self.tombstoned is not None:
            rows["tombstoned"] = len(self.tombstoned)
        if len(set(rows.values())) > 1:
            counts = ", ".join(f"{name} {n}" for name, n in rows.items())
            what = f"expected as many rows in every part of an index shard, found {counts}"
            raise NightrankError("E_CORRUPT", what, "", "run verify, then build the index again")

    @functools.cached_property
    def largest_norm(self) -> float:
        """The largest Euclidean norm of the vectors; 0 without any."""
        return float(scoring.norms(self.vectors).max(initial=0.0))

    def columns(self, query: Int32, row: Int64) -> dict[str, Int32 | Int64 | pa.Array]:
        """The columns `query`, `ordinal` and `doc_id` of pairs of query and row."""
        doc_ids = self.doc_ids.take(pa.array(row))
        return {"query": query, "ordinal": self.ordinals[row], "doc_id": doc_ids}

    def scores(self, queries: Float32, query: Int32, row: Int64) -> Float32:
        """Exact scores of pairs of query and row, float32[len(row)]."""
        threads = faiss_library.threads()
        return scoring.exact_scores(queries, self.vectors, query, row, self.largest_norm, threads)


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
    # Scores of two shards are comparable only with a bound for both.
    bounded = all(faiss_products.scores_are_products(shard.index) for shard in shards)
    errors = [error_bound(queries, shard) for shard in shards] if bounded else []
    error = np.max([np.zeros(len(queries)), *errors], axis=0)
    parts: list[Hits] = []
    for shard in shards:
        hits = search_shard(queries, shard, depth, parameters)
        parts.append(hits if bounded else hits.scored(queries, shard))
        parts = cut(parts, len(queries), depth, 2 * error)
    tables = [SCHEMA.empty_table().drop_columns(["rank"])]
    for shard, hits in zip(shards, parts, strict=True):
        hits = hits.scored(queries, shard) if bounded else hits
        columns = {**shard.columns(hits.query, hits.row), "score": hits.score}
        tables.append(pa.table(columns, schema=tables[0].schema))
    return ranking.rank(pa.concat_tables(tables), depth).select(SCHEMA.names)


@dataclass(frozen=True, eq=False)
class Hits:
    """Rows of one shard: query int32[m], ascending; row int64[m]; score float32[m]."""

    query: Int32
    row: Int64
    score: Float32

    def where(self, keep: NDArray[np.bool_]) -> Hits:
        """The hits where a mask is true."""
        return Hits(self.query[keep], self.row[keep], self.score[keep])

    def scored(self, queries: Float32, shard: OpenShard) -> Hits:
        """The same rows with exact scores."""
        return Hits(self.query, self.row, shard.scores(queries, self.query, self.row))


def cut(parts: list[Hits], queries: int, depth: int, slack: NDArray[np.float64]) -> list[Hits]:
    """Drops hits more than `slack` (float64[queries]) below the depth-th score of all parts."""
    scores = [(hits.query, hits.score) for hits in parts]
    last = ragged.nth_of_parts(scores, queries, depth).astype(np.float64) - slack
    return [hits.where(hits.score >= last[hits.query]) for hits in parts]


def search_shard(queries: Float32, shard: OpenShard, depth: int, parameters: str) -> Hits:
    """Searches one shard; every query's list is complete, ties included, down to its last score.

    Returns:
        Rows without tombstones, with the scores of FAISS.
    """
    rows = len(shard.ordinals)
    live = rows - int(shard.tombstoned.sum()) if shard.tombstoned is not None else rows
    fetch = depth + max(10, depth // 10)
    fetch = min(-(-fetch * rows // live), rows) if live else 0
    pending = np.arange(len(queries), dtype=np.int32)
    done = [Hits(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float32))]
    while len(pending) and fetch:
        block = max(1, BLOCK_PAIRS // fetch)
        unfinished = []
        for begin in range(0, len(pending), block):
            chosen = pending[begin : begin + block]
            hits, open_ended = _fetch(queries, shard, chosen, fetch, depth, parameters)
            done.append(hits)
            unfinished.append(open_ended)
        pending = np.concatenate(unfinished)
        fetch = min(2 * fetch, rows)
    query = np.concatenate([hits.query for hits in done])
    row = np.concatenate([hits.row for hits in done])
    score = np.concatenate([hits.score for hits in done])
    if (query[1:] >= query[:-1]).all():
        return Hits(query, row, score)
    order = np.argsort(query, kind="stable")
    return Hits(query[order], row[order], score[order])


def _fetch(
    queries: Float32, shard: OpenShard, chosen: Int32, fetch: int, depth: int, parameters: str
) -> tuple[Hits, Int32]:
    """Fetches once; returns the finished lists, and the queries that need a longer fetch."""
    vectors = queries[chosen]
    local, row, approximate = faiss_index.search(shard.index, vectors, fetch, parameters)
    is_live = np.ones(len(row), bool) if shard.tombstoned is None else ~shard.tombstoned[row]
    hits = np.bincount(local, minlength=len(chosen))
    live = np.bincount(local[is_live], minlength=len(chosen))
    # With fewer hits than `fetch`, or with all rows fetched, a longer fetch adds nothing.
    unfinished = (hits == fetch) & (fetch < len(shard.ordinals)) & (fetch > depth)
    # Of the others, lists with `depth` live rows are done unless the last row fetched may tie.
    full = np.flatnonzero(unfinished & (live >= depth))
    last = approximate[np.cumsum(hits)[full] - 1].astype(np.float64)
    ends = np.cumsum(live)[full]
    depth_th = approximate[is_live][ends - live[full] + depth - 1].astype(np.float64)
    # Both scores are those of FAISS: a lossy index misjudges whole lists, which compared with exact
    # scores would seem tied to the end. One error for the depth-th, one for a row not fetched.
    unfinished[full] = last + 2 * error_bound(vectors[full], shard) >= depth_th
    keep = is_live & ~unfinished[local]
    return Hits(chosen[local[keep]], row[keep], approximate[keep]), chosen[unfinished]


def error_bound(queries: Float32, shard: OpenShard) -> NDArray[np.float64]:
    """Bounds the difference of FAISS's inner product from the exact score, float64[q].

    A relative tolerance would be no bound: an inner product near 0 has the error of its terms.
    """
    relative = faiss_products.relative_error(shard.index)
    # 1.001 covers the rounding of the norms and the second-order terms of the bound.
    return 1.001 * relative * scoring.norms(queries) * shard.largest_norm
