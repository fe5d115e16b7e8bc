"""The lift of reranking: a measure before and after, its ceiling, and a confidence interval.

The interval is a paired bootstrap over queries: queries are drawn with replacement, each with both
of its values, and the mean difference of every draw is kept; the interval spans the middle 95 % of
10,000 draws. It covers the choice of queries, not the judgements.
"""

from __future__ import annotations

import zlib

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightrank.errors import NightrankError

DRAWS = 10_000
INTERVAL_PERCENT = (2.5, 97.5)
# Query numbers drawn at a time, 32 MB of int64: memory does not grow with draws x queries.
NUMBERS_AT_A_TIME = 4 << 20
ALL = "all"
# Smaller differences come from rounding.
UNCHANGED = 1e-9
SCHEMA = pa.schema(
    [
        ("vertical", pa.string()),
        ("num_queries", pa.int64()),
        ("first_stage", pa.float64()),
        ("reranked", pa.float64()),
        ("ceiling", pa.float64()),
        ("lift", pa.float64()),
        ("lift_low", pa.float64()),
        ("lift_high", pa.float64()),
        ("headroom_reached", pa.float64()),
        ("improved", pa.int64()),
        ("degraded", pa.int64()),
        ("unchanged", pa.int64()),
    ]
)

Float64 = NDArray[np.float64]


def summarise(
    per_query: pa.Table, measure: str, verticals: dict[str, str] | None = None, seed: int = 0
) -> pa.Table:
    """Compares the runs `first_stage`, `reranked` and `ceiling` by one measure.

    Args:
        per_query: as `measures.evaluate` returns it, with the three runs.
        measure: the name of one of its measures.
        verticals: query_id to vertical; other queries count in `all` only.
        seed: of the bootstrap. Each vertical has its own stream of random numbers, so adding a
            vertical changes no other interval.

    Returns:
        `SCHEMA`: `all` first, then the verticals by name. Means are over queries;
        `lift` = reranked - first_stage, with its 95 % interval; `headroom_reached` = lift /
        (ceiling - first_stage), the reached share of the possible lift, null if the first stage
        is at its ceiling; `improved`, `degraded` and `unchanged` count queries.

    Raises:
        NightrankError: E_ACCOUNTING if the three runs do not cover the same queries.
    """
    ids, before = _values(per_query, measure, "first_stage")
    others = [_values(per_query, measure, run) for run in ("reranked", "ceiling")]
    if not ids or any(other != ids for other, _ in others):
        raise NightrankError(
            "E_ACCOUNTING",
            "expected the same queries, at least one, in all three runs; found "
            f"{len(ids)} in first_stage, {len(others[0][0])} in reranked and "
            f"{len(others[1][0])} in ceiling",
            measure,
            "please report this",
        )
    after, best = (values for _, values in others)
    vertical_of = np.array([(verticals or {}).get(query_id, "") for query_id in ids], object)
    rows = [_row(ALL, before, after, best, seed)]
    for vertical in sorted(set(vertical_of.tolist()) - {""}):
        inside = vertical_of == vertical
        rows.append(_row(vertical, before[inside], after[inside], best[inside], seed))
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def interval(difference: Float64, seed: int, stream: str = ALL) -> tuple[float, float]:
    """Computes the paired bootstrap interval of a mean difference.

    Args:
        difference: float64[n], one difference per query, n at least 1.
        seed: an integer of at least 0.
        stream: names the stream of random numbers.

    Returns:
        The lower and the upper end of the 95 % interval.
    """
    generator = np.random.default_rng([seed, zlib.crc32(stream.encode())])
    num = len(difference)
    means = np.empty(DRAWS)
    draws = max(1, NUMBERS_AT_A_TIME // num)
    for begin in range(0, DRAWS, draws):
        part = means[begin : begin + draws]
        part[:] = difference[generator.integers(0, num, (len(part), num))].mean(axis=1)
    low, high = np.percentile(means, INTERVAL_PERCENT)
    return float(low), float(high)


def _values(per_query: pa.Table, measure: str, run: str) -> tuple[list[str], Float64]:
    keep = (per_query["run"].to_numpy() == run) & (per_query["measure"].to_numpy() == measure)
    table = per_query.filter(pa.array(keep)).sort_by("query_id")
    return table["query_id"].to_pylist(), table["value"].to_numpy()


def _row(
    vertical: str, before: Float64, after: Float64, best: Float64, seed: int
) -> dict[str, str | float | None]:
    difference = after - before
    low, high = interval(difference, seed, vertical)
    headroom = float((best - before).mean())
    lift = float(difference.mean())
    improved = int((difference > UNCHANGED).sum())
    degraded = int((difference < -UNCHANGED).sum())
    return {
        "vertical": vertical,
        "num_queries": len(before),
        "first_stage": float(before.mean()),
        "reranked": float(after.mean()),
        "ceiling": float(best.mean()),
        "lift": lift,
        "lift_low": low,
        "lift_high": high,
        "headroom_reached": lift / headroom if headroom > UNCHANGED else None,
        "improved": improved,
        "degraded": degraded,
        "unchanged": len(before) - improved - degraded,
    }
