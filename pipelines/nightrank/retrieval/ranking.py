"""The total order of candidates: ranking, merging, fusing and rescoring the head of a list.

The order is trec_eval's: score descending, then doc_id descending by its UTF-8 bytes
(`form_res_rels.c` of trec_eval: `return (strcmp(p2->docno, p1->docno))`). So the rank written here
is the rank that trec_eval derives from the exported scores, and the same candidates give the same
list for any division into shards, workers and batches.

Tables are Arrow tables with at least `query` (int32, the row within a query shard), `doc_id`
(string) and `score` (float32); further columns are kept.

Knows nothing about: indexes, models, storage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightrank.errors import NightrankError
from nightrank.retrieval import ragged

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]


def rank(table: pa.Table, depth: int) -> pa.Table:
    """Sorts every query's rows into the total order and cuts them at `depth`.

    Args:
        table: columns `query` int32, `doc_id` string, `score` float32, and any others; a `rank`
            column is replaced.
        depth: rows kept per query, at least 1.

    Returns:
        The kept rows sorted by (query, rank), with `rank` (int32, from 1) as the last column. The
        score -0.0 becomes 0.0, since the two compare as equal but differ in bytes.

    Raises:
        NightrankError: E_CORRUPT for a score that is not finite, or a doc_id twice in one query.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, found {depth}")
    if "rank" in table.column_names:
        table = table.drop_columns(["rank"])
    query = _numpy(table, "query", np.int32)
    score = _numpy(table, "score", np.float32) + np.float32(0.0)
    codes, names = _codes(table)
    if not np.isfinite(score).all():
        row = int(np.flatnonzero(~np.isfinite(score))[0])
        _refuse(table, row, "has a score that is not finite")
    _refuse_duplicates(table, query, codes)

    order = _order(query, score, codes, names)
    ranks = positions(query[order])
    kept = ranks <= depth
    order, ranks = order[kept], ranks[kept]
    where = table.schema.get_field_index("score")
    table = table.set_column(where, pa.field("score", pa.float32()), pa.array(score))
    return table.take(pa.array(order)).append_column(
        pa.field("rank", pa.int32()), pa.array(ranks, pa.int32())
    )


def among_best(
    query: Int32, score: Float32, doc_ids: Callable[[Int64], pa.Array], queries: int, depth: int
) -> NDArray[np.bool_]:
    """Which rows are among the best `depth` of their query, without ranking them.

    Only ties at the cut need doc_ids: of 4,096 lists of 100 cosines, one in some hundreds.

    Args:
        query: int32[m], ascending, below `queries`.
        score: float32[m], finite.
        doc_ids: returns the doc_ids of rows.
        queries: the number of queries.
        depth: rows of each list.

    Returns:
        bool[m].

    Raises:
        NightrankError: as `rank`, for the rows that are compared.
    """
    if not np.isfinite(score).all():
        row = int(np.flatnonzero(~np.isfinite(score))[0])
        names = pa.table({"query": query[row : row + 1], "doc_id": doc_ids(np.array([row]))})
        _refuse(names, 0, "has a score that is not finite")
    last = ragged.nth_largest(score, np.bincount(query, minlength=queries), depth)
    keep = score >= last[query]
    tied = np.bincount(query[keep], minlength=queries) > depth
    at = np.flatnonzero(keep & tied[query])
    if len(at):
        columns = {"query": query[at], "doc_id": doc_ids(at), "score": score[at], "place": at}
        keep[at] = False
        keep[rank(pa.table(columns), depth)["place"].to_numpy()] = True
    return keep


def merge(tables: list[pa.Table], depth: int) -> pa.Table:
    """Merges lists of the same queries from disjoint sets of documents.

    Equal to ranking all documents at once, provided that each list was cut at `depth` or later.

    Args:
        tables: at least one table as `rank` takes or returns it, all with the same columns.
        depth: rows kept per query.

    Returns:
        As `rank`.

    Raises:
        NightrankError: as `rank`.
    """
    if not tables:
        raise ValueError("expected at least one table, found none")
    plain = [t.drop_columns(["rank"]) if "rank" in t.column_names else t for t in tables]
    return rank(pa.concat_tables(plain), depth)


def positions(query: Int32) -> Int32:
    """Numbers the rows of each query.

    Args:
        query: int32, equal values adjacent.

    Returns:
        int32, from 1 within each query.
    """
    starts = _starts(query)
    lengths = np.diff(np.append(starts, query.size))
    return (np.arange(query.size) - np.repeat(starts, lengths) + 1).astype(np.int32)


def fuse(first_stage: Float32, rerank: Float32, query: Int32, weight: float) -> Float32:
    """Mixes two scores of the same candidates: w * z(first_stage) + (1 - w) * z(rerank).

    z = (x - mean) / population standard deviation within the query's rows, and 0 where all of them
    are equal. Sums run in float64 over the *sorted* values of one query, so that the result
    depends neither on the order of the rows nor on how queries are sharded.

    Args:
        first_stage: float32[n], first-stage scores.
        rerank: float32[n], rerank scores.
        query: int32[n], equal values adjacent.
        weight: w, within 0 to 1; at 0 the rerank scores are returned unchanged.

    Returns:
        float32[n].
    """
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"weight must be within 0 to 1, found {weight}")
    if weight == 0.0:
        return rerank
    group = np.cumsum(positions(query) == 1) - 1
    mixed = weight * _standardised(first_stage, group)
    mixed += (1.0 - weight) * _standardised(rerank, group)
    return mixed.astype(np.float32)


def head_then_tail(
    previous: Float32, rescored: Float32, query: Int32, ranks: Int32, depth: int
) -> Float32:
    """Scores a list whose head alone was rescored, so that the head ranks above the tail.

    The tail keeps its order and its distances:
    score = lowest head score - 1 - (best previous tail score - previous score).
    Where float32 would round two different tail scores to one (scores near 0.5 moved to near -10
    lose four bits), the later one is set to the next float32 below, so that the order holds; tied
    scores stay tied.

    Args:
        previous: float32[n], the score column before this step.
        rescored: float32[n], the new scores; those of the tail are ignored.
        query: int32[n], equal values adjacent.
        ranks: int32[n], the ranks before this step, ascending from 1 within each query.
        depth: rows with a rank up to this are the head.

    Returns:
        float32[n], the new score column.
    """
    head = ranks <= depth
    if head.all():
        return rescored.copy()
    group = np.cumsum(ranks == 1) - 1
    lowest = np.full(group[-1] + 1, np.inf, np.float32)
    np.minimum.at(lowest, group[head], rescored[head])

    tail = ~head
    of, old = group[tail], previous[tail].astype(np.float64)
    first = np.flatnonzero(ranks[tail] == depth + 1)
    best = np.zeros(lowest.size)
    best[of[first]] = old[first]
    target = (lowest[of].astype(np.float64) - 1.0 - (best[of] - old)).astype(np.float32)

    # One step down wherever the previous score fell; a running minimum over (value + steps so far)
    # then lowers a value exactly as far as needed. A large offset separates the groups.
    falls = np.append(True, old[1:] < old[:-1])
    falls[first] = True
    steps = np.cumsum(falls)
    steps -= np.repeat(steps[first], np.diff(np.append(first, of.size))) - 1
    value = np.minimum(_ordered(target), _ordered(lowest)[of] - 1) + steps
    apart = np.repeat(np.arange(first.size), np.diff(np.append(first, of.size))) << 34
    value = np.minimum.accumulate(value - apart) + apart - steps
    score = rescored.copy()
    score[tail] = _from_ordered(value)
    return score


def _numpy(table: pa.Table, name: str, dtype: Any) -> NDArray[Any]:
    column = table[name]
    if column.null_count:
        _refuse(table, int(np.flatnonzero(column.is_null().to_numpy())[0]), f"has no {name}")
    return column.to_numpy().astype(dtype, copy=False)


def _codes(table: pa.Table) -> tuple[Int32, pa.Array]:
    """Replaces doc_ids by positions in the array of distinct ones."""
    if not table.num_rows:
        return np.empty(0, np.int32), pa.array([], pa.string())
    encoded = table["doc_id"].dictionary_encode().unify_dictionaries()
    codes = pa.chunked_array([c.indices for c in encoded.chunks], pa.int32()).to_numpy()
    return codes, encoded.chunk(0).dictionary


def _order(query: Int32, score: Float32, codes: Int32, names: pa.Array) -> Int64:
    """Sorts by (query, score descending), and only tied rows by doc_id descending."""
    key = (query.astype(np.int64) << 32) - _ordered(score)
    order = np.argsort(key, kind="stable")
    key = key[order]
    same = key[1:] == key[:-1]
    if not same.any():
        return order
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    ties = pa.table({"key": key[tied], "doc_id": names.take(pa.array(codes[order[tied]]))})
    resolved = pc.sort_indices(ties, [("key", "ascending"), ("doc_id", "descending")])
    order[tied] = order[tied[resolved.to_numpy()]]
    return order


def _ordered(score: Float32) -> Int64:
    """Maps float32 to integers of the same order, neighbours to neighbours; -0.0 to 0."""
    bits = score.view(np.int32).astype(np.int64)
    return np.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))


def _from_ordered(value: Int64) -> Float32:
    """Inverts `_ordered`."""
    bits = np.where(value >= 0, value, -value | 0x80000000)
    return bits.astype(np.uint32).view(np.float32)


def _starts(query: Int32) -> Int64:
    return np.flatnonzero(np.append(query[:1] == query[:1], query[1:] != query[:-1]))


def _standardised(score: Float32, group: Int64) -> NDArray[np.float64]:
    """Computes z within groups; rows are sorted, since bincount adds them one after another."""
    count = np.bincount(group)
    order = np.lexsort((score, group))
    value, of = score[order].astype(np.float64), group[order]
    mean = np.bincount(of, value) / count
    deviation = value - mean[of]
    std = np.sqrt(np.bincount(of, deviation * deviation) / count)
    z = np.zeros(score.size)
    # A sum of equal float32 values is exact in float64, so std is exactly 0 where all are equal.
    z[order] = np.divide(deviation, std[of], out=np.zeros_like(deviation), where=std[of] > 0)
    return z


def _refuse_duplicates(table: pa.Table, query: Int32, codes: Int32) -> None:
    pair = (query.astype(np.int64) << 32) | codes
    ascending = np.sort(pair)
    twice = ascending[1:][ascending[1:] == ascending[:-1]]
    if twice.size:
        _refuse(table, int(np.flatnonzero(pair == twice[0])[1]), "occurs twice in one list")


def _refuse(table: pa.Table, row: int, what: str) -> None:
    query, doc_id = table["query"][row].as_py(), table["doc_id"][row].as_py()
    raise NightrankError("E_CORRUPT", f"a candidate {what}", f"query {query}, doc_id {doc_id!r}")
