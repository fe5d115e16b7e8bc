"""Carried lists: how deep a list is still complete after documents were added and deleted.

A list is complete down to its bound, a (score, doc_id) in the total order of `ranking`: it holds
every live document at or above the bound. So an incremental run searches new documents only:

    rows below the bound are not kept, since unknown documents may lie below it too;
    a deleted document leaves its list, and the bound stays;
    a list longer than needed is cut, and its bound rises to its last row;
    a list too short above its bound underflows: its query is searched in full.

A full search that returns fewer rows than its depth has found all documents: the list's bound is
minus infinity. A bound is a position in the total order rather than a score, so that ties at the
cut are no special case. A pool holds a query's rows of every list (dense, BM25), each row with all
scores; the scores and the bounds tell which list a row is in.

Knows nothing about: indexes, segments, storage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightrank.retrieval import ranking
from nightrank.retrieval.hybrid import BM25, DENSE, FOUND_BY_VECTOR

Bool = NDArray[np.bool_]


def kept_rows(depth: int) -> int:
    """Rows that a carried list keeps, so that `depth` remain after several incremental runs.

    A quarter more than `depth`: if every run replaces a hundredth of the documents, the number of
    rows above a bound drifts by about sqrt(2 * depth / 100) a run, by eight after thirty runs at
    depth 100; deletions alone use up the quarter in 22 runs.
    """
    return depth + max(10, depth // 4)


@dataclass(frozen=True, eq=False)
class Bounds:
    """The bounds down to which the lists of q queries are complete.

    Attributes:
        scores: by score column, float32[q]; minus infinity where the list holds all documents.
        doc_ids: by score column, string[q].
    """

    scores: dict[str, NDArray[np.float32]]
    doc_ids: dict[str, pa.Array]

    @staticmethod
    def none(queries: int, names: list[str]) -> Bounds:
        """Bounds of lists that hold all documents."""
        return Bounds(
            {name: np.full(queries, -np.inf, np.float32) for name in names},
            {name: pa.array([""] * queries, pa.string()) for name in names},
        )

    @staticmethod
    def from_table(table: pa.Table) -> Bounds:
        """From `schemas.bounds`, one row per query."""
        names = [name for name in (DENSE, BM25) if f"{name}_bound" in table.column_names]
        return Bounds(
            {name: table[f"{name}_bound"].to_numpy() for name in names},
            {name: table[f"{name}_bound_id"].combine_chunks() for name in names},
        )

    def to_table(self) -> pa.Table:
        """The inverse of `from_table`."""
        columns = {}
        for name, scores in self.scores.items():
            columns[f"{name}_bound"] = pa.array(scores, pa.float32())
            columns[f"{name}_bound_id"] = self.doc_ids[name]
        return pa.table(columns)

    def where(self, chosen: Bool, other: Bounds) -> Bounds:
        """These bounds where `chosen` (bool[q]), else the other's."""
        mask = pa.array(chosen)
        return Bounds(
            {n: np.where(chosen, s, other.scores[n]) for n, s in self.scores.items()},
            {n: pc.if_else(mask, ids, other.doc_ids[n]) for n, ids in self.doc_ids.items()},
        )

    def above(self, table: pa.Table, name: str) -> Bool:
        """Which rows of a pool are in the list of score `name`: at or above its bound."""
        query, score = table["query"].to_numpy(), table[name].to_numpy()
        bound = self.scores[name][query]
        in_list = score > bound
        tied = np.flatnonzero(score == bound)
        if len(tied):
            ids = table["doc_id"].take(pa.array(tied))
            bound_ids = self.doc_ids[name].take(pa.array(query[tied]))
            in_list[tied] = pc.greater_equal(ids, bound_ids).to_numpy()
        if name == DENSE and FOUND_BY_VECTOR in table.column_names:
            in_list &= table[FOUND_BY_VECTOR].to_numpy()
        if name == BM25:
            in_list &= score > 0  # A document that shares no term is in no BM25 list.
        return np.asarray(in_list)


def cut(
    pool: pa.Table, queries: int, names: list[str], depth: int, bounds: Bounds | None = None
) -> tuple[pa.Table, Bounds, dict[str, NDArray[np.int64]]]:
    """Cuts every list of a pool at `depth` rows, and returns the new bounds.

    Args:
        pool: columns `query` int32, `doc_id`, the score columns, any others; a document once per
            query.
        queries: q, the number of queries; every `query` is below it.
        names: the score columns of the lists, in this order: `DENSE`, `BM25`.
        depth: rows of each list.
        bounds: of carried lists. None for lists that were searched in full to `depth` at least:
            their bound is then the last of `depth` rows.

    Returns:
        The rows of the pool that are in a list, sorted by (query, dense rank); the new bounds; the
        number of rows in each list of every query (int64[q] by name).

    Raises:
        NightrankError: as `ranking.rank`.
    """
    before = bounds or Bounds.none(queries, names)
    scores, doc_ids, lengths = {}, {}, {}
    table = pool.append_column("score", pool[names[0]])
    table = ranking.rank(table, max(1, table.num_rows)).drop_columns(["score", "rank"])
    table = table.combine_chunks()
    keep = np.zeros(table.num_rows, bool)
    for name in names:
        at = np.flatnonzero(before.above(table, name))
        ordered = ranking.rank(
            pa.table(
                {
                    "query": table["query"].take(pa.array(at)),
                    "doc_id": table["doc_id"].take(pa.array(at)),
                    "score": table[name].take(pa.array(at)),
                    "place": pa.array(at),
                }
            ),
            depth,
        )
        query, rank = ordered["query"].to_numpy(), ordered["rank"].to_numpy()
        all_rows = np.bincount(table["query"].to_numpy()[at], minlength=queries)
        open_ended = all_rows > depth if bounds else all_rows >= depth
        last = np.flatnonzero((rank == depth) & open_ended[query])
        scores[name] = before.scores[name].copy()
        scores[name][query[last]] = ordered["score"].to_numpy()[last]
        ids = before.doc_ids[name].to_numpy(zero_copy_only=False).copy()
        ids[query[last]] = ordered["doc_id"].take(pa.array(last)).to_numpy(zero_copy_only=False)
        doc_ids[name] = pa.array(ids, pa.string())
        lengths[name] = np.minimum(all_rows, depth)
        keep[ordered["place"].to_numpy()] = True
    return table.filter(pa.array(keep)), Bounds(scores, doc_ids), lengths


def underflows(bounds: Bounds, lengths: dict[str, NDArray[np.int64]], depth: int) -> Bool:
    """Queries with a list of fewer than `depth` rows that is not complete; bool[q]."""
    short = [(lengths[n] < depth) & np.isfinite(s) for n, s in bounds.scores.items()]
    return np.asarray(np.logical_or.reduce(short))
