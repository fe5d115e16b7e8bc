"""Which documents reranking moves into and out of the top, and which it cannot reach.

Counted per query from the judgements. A document is relevant if its relevance is at least 1; *a
document without a judgement is not relevant*. Where judgements are sparse, some of the "false
positives demoted" are relevant documents without a judgement: read that count as an upper bound,
and `harmful_moves` as a lower bound.

Every relevant document counts in exactly one of `kept`, `false_negatives_promoted`,
`harmful_moves`, `left_below` and `lost_at_retrieval`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# What each count means, in the order of the table and the report.
COUNTS = {
    "relevant": "relevant documents, by the judgements",
    "kept": "relevant, in the top before and after",
    "false_positives_demoted": "not relevant, in the top before, not after",
    "false_negatives_promoted": "relevant, retrieved below the top, in the top after",
    "harmful_moves": "relevant, in the top before, not after",
    "false_positives_promoted": "not relevant, retrieved below the top, in the top after",
    "left_below": "relevant, retrieved below the top, still below it after",
    "missed_at_reranking": "relevant and retrieved, not in the top after",
    "lost_at_retrieval": "relevant, not retrieved: reranking cannot reach it",
}
RELEVANT_FROM = 1
SCHEMA = pa.schema([("query_id", pa.string()), *((name, pa.int32()) for name in COUNTS)])


def movement(
    qrels: pa.Table,
    before: pa.Table,
    after: pa.Table,
    cutoff: int = 10,
    queries: pa.Array | None = None,
) -> pa.Table:
    """Counts the moves into and out of the top of every judged query.

    Args:
        qrels: columns `query_id`, `doc_id` string, `relevance` int32.
        before: columns `query_id`, `doc_id`, `rank` int32 (from 1): all candidates in the order
            of the first stage.
        after: the same columns: the reranked lists, at least their first `cutoff` rows.
        cutoff: the last rank of the top.
        queries: counts only these query_ids; all judged ones by default.

    Returns:
        `SCHEMA`: one row per judged query, ascending. `COUNTS` describes the counts;
        `missed_at_reranking` = `harmful_moves` + `left_below`.
    """
    if queries is not None:
        qrels = qrels.filter(pc.is_in(qrels["query_id"], value_set=queries))
    judged = pc.unique(qrels["query_id"]).sort()
    key = ["query_id", "doc_id"]
    moved = qrels.select([*key, "relevance"])
    for name, table in (("before", before), ("after", after)):
        ranks = table.select([*key, "rank"]).rename_columns([*key, name])
        ranks = ranks.filter(pc.is_in(ranks["query_id"], value_set=judged))
        moved = moved.join(ranks, key, join_type="full outer")

    relevant = _filled(moved, "relevance", 0) >= RELEVANT_FROM
    below = np.iinfo(np.int32).max
    was, now = _filled(moved, "before", below), _filled(moved, "after", below)
    was_top, now_top = was <= cutoff, now <= cutoff
    retrieved = was < below
    flags = {
        "relevant": relevant,
        "kept": relevant & was_top & now_top,
        "false_positives_demoted": ~relevant & was_top & ~now_top,
        "false_negatives_promoted": relevant & ~was_top & now_top,
        "harmful_moves": relevant & was_top & ~now_top,
        "false_positives_promoted": ~relevant & ~was_top & now_top,
        "left_below": relevant & retrieved & ~was_top & ~now_top,
        "missed_at_reranking": relevant & retrieved & ~now_top,
        "lost_at_retrieval": relevant & ~retrieved & ~now_top,
    }
    number = pc.index_in(moved["query_id"], value_set=judged).to_numpy()
    columns = [
        pa.array(np.bincount(number[flags[name]], minlength=len(judged)), pa.int32())
        for name in COUNTS
    ]
    return pa.Table.from_arrays([judged.cast(pa.string()), *columns], schema=SCHEMA)


def totals(moves: pa.Table, verticals: dict[str, str] | None = None) -> dict[str, dict[str, int]]:
    """Sums the counts over all queries and by vertical.

    Args:
        moves: as `movement` returns it.
        verticals: query_id to vertical.

    Returns:
        `all`, then the verticals by name, each a dict of `num_queries` and `COUNTS`.
    """
    ids = moves["query_id"].to_pylist()
    vertical_of = np.array([(verticals or {}).get(query_id, "") for query_id in ids], object)
    groups = {"all": np.ones(len(ids), bool)}
    for vertical in sorted(set(vertical_of.tolist()) - {""}):
        groups[vertical] = vertical_of == vertical
    return {
        vertical: {
            "num_queries": int(inside.sum()),
            **{name: int(moves[name].to_numpy()[inside].sum()) for name in COUNTS},
        }
        for vertical, inside in groups.items()
    }


def _filled(table: pa.Table, name: str, value: int) -> NDArray[Any]:
    return pc.fill_null(table[name], pa.scalar(value, table.schema.field(name).type)).to_numpy()
