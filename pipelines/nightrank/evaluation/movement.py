"""Which documents reranking moved into and out of the top, and which it could never have moved.

Counted per query, from the judgements: a document is relevant if its relevance is at least 1, and
*not relevant otherwise, unjudged ones included*. Where judgements are sparse, some of the "false
positives demoted" are therefore relevant documents that nobody judged: read the counts as a lower
bound of harm and an upper bound of cleaning.

Every relevant document stands in exactly one of `kept`, `false_negatives_promoted`,
`harmful_moves`, `left_below` and `lost_at_retrieval`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# What each count means; the order is that of the table and of the report.
COUNTS = {
    "relevant": "relevant documents, by the judgements",
    "kept": "relevant, in the top before and after",
    "false_positives_demoted": "not relevant, in the top before, not after",
    "false_negatives_promoted": "relevant, retrieved below the top, in the top after",
    "harmful_moves": "relevant, in the top before, not after",
    "false_positives_promoted": "not relevant, retrieved below the top, in the top after",
    "left_below": "relevant, retrieved below the top, and still there after",
    "missed_in_pool": "relevant and retrieved, but not in the top after",
    "lost_at_retrieval": "relevant, not retrieved at all: out of reranking's reach",
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
        before: columns `query_id`, `doc_id`, `rank` int32 (from 1): the whole pool of candidates
            as the first stage ranked it.
        after: the same columns: the reranked list, at least its first `cutoff` rows.
        cutoff: ranks up to this are the top.
        queries: restricts to these query_ids; all that are judged by default.

    Returns:
        `SCHEMA`: one row per judged query, ascending. `COUNTS` says what is counted;
        `missed_in_pool` = `harmful_moves` + `left_below`.
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
        "missed_in_pool": relevant & retrieved & ~now_top,
        "lost_at_retrieval": relevant & ~retrieved & ~now_top,
    }
    number = pc.index_in(moved["query_id"], value_set=judged).to_numpy()
    columns = [
        pa.array(np.bincount(number[flags[name]], minlength=len(judged)), pa.int32())
        for name in COUNTS
    ]
    return pa.Table.from_arrays([judged.cast(pa.string()), *columns], schema=SCHEMA)


def totals(moves: pa.Table, verticals: dict[str, str] | None = None) -> dict[str, dict[str, int]]:
    """Adds the counts up, over all queries and by vertical.

    Args:
        moves: as `movement` returns it.
        verticals: query_id to vertical.

    Returns:
        `all`, then the verticals by name, each a dict of `num_queries` and `COUNTS`.
    """
    of = np.array([(verticals or {}).get(q, "") for q in moves["query_id"].to_pylist()], object)
    groups = {"all": np.ones(len(of), bool)}
    groups |= {vertical: of == vertical for vertical in sorted(set(of.tolist()) - {""})}
    return {
        vertical: {
            "num_queries": int(mine.sum()),
            **{name: int(moves[name].to_numpy()[mine].sum()) for name in COUNTS},
        }
        for vertical, mine in groups.items()
    }


def _filled(table: pa.Table, name: str, value: int) -> NDArray[Any]:
    return pc.fill_null(table[name], pa.scalar(value, table.schema.field(name).type)).to_numpy()
