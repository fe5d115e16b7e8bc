"""Standing lists against lists from nothing, over nights in which rows come and go."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from nightrank.retrieval import carried_lists
from nightrank.retrieval.hybrid import BM25, DENSE, FOUND_BY_VECTOR

NAMES = [DENSE, BM25]


def pool(rows: dict[str, tuple[float, float]]) -> pa.Table:
    """One query's rows; scores of few values, so that many are tied."""
    return pa.table(
        {
            "query": pa.array(np.zeros(len(rows), np.int32)),
            "doc_id": pa.array(list(rows), pa.string()),
            DENSE: pa.array([dense for dense, _ in rows.values()], pa.float32()),
            BM25: pa.array([lexical for _, lexical in rows.values()], pa.float32()),
            FOUND_BY_VECTOR: pa.array([True] * len(rows), pa.bool_()),
        }
    )


def lists(table: pa.Table, depth: int) -> dict[str, list[str]]:
    """The best `depth` of either list, by the definition."""
    found = {}
    for name in NAMES:
        rows = [
            (score, doc_id)
            for doc_id, score in zip(*(table[c].to_pylist() for c in ("doc_id", name)), strict=True)
            if name == DENSE or score > 0
        ]
        found[name] = [doc_id for _, doc_id in sorted(rows, reverse=True)[:depth]]
    return found


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(5, 60))
@settings(deadline=None, max_examples=80)
def test_what_stands_is_what_a_search_of_everything_finds(seed: int, depth: int, size: int) -> None:
    rng = np.random.default_rng(seed)

    def row() -> tuple[float, float]:
        return float(rng.integers(0, 6)) / 4, float(rng.integers(0, 4))

    def searched(rows: dict[str, tuple[float, float]]) -> pa.Table:
        """What a search to the kept depth gives: the best of either list, and no more."""
        everything = pool(rows)
        best = lists(everything, carried_lists.kept_rows(depth))
        names = {*best[DENSE], *best[BM25]}
        mask = pa.array([n in names for n in everything["doc_id"].to_pylist()], pa.bool_())
        return everything.filter(mask)

    corpus = {f"d{i:03d}": row() for i in range(size)}
    kept = carried_lists.kept_rows(depth)
    table, bounds, _ = carried_lists.cut(searched(corpus), 1, NAMES, kept)
    for night in range(8):
        gone = [name for name in corpus if rng.random() < 0.15]
        new = {f"n{night}-{rng.integers(99):02d}": row() for _ in range(int(rng.integers(0, 9)))}
        corpus = {n: r for n, r in corpus.items() if n not in gone and n not in new} | new
        alive = pa.array(
            [n in corpus and n not in new for n in table["doc_id"].to_pylist()], pa.bool_()
        )
        merged = pa.concat_tables([table.filter(alive), searched(new)])
        table, bounds, lengths = carried_lists.cut(merged, 1, NAMES, kept, bounds)
        if carried_lists.underflows(bounds, lengths, depth)[0]:
            table, bounds, _ = carried_lists.cut(searched(corpus), 1, NAMES, kept)
        assert lists(table, depth) == lists(pool(corpus), depth)


def test_a_list_that_is_cut_is_complete_to_its_last_row_and_no_further() -> None:
    rows = {f"d{i}": (1.0 - i / 100, 0.0) for i in range(40)}
    table, bounds, lengths = carried_lists.cut(pool(rows), 1, NAMES, 20)
    assert table.num_rows == 20 and lengths[DENSE][0] == 20
    assert bounds.doc_ids[DENSE][0].as_py() == "d19"
    below = pool({"new": (0.5, 0.0)})
    same, after, _ = carried_lists.cut(pa.concat_tables([table, below]), 1, NAMES, 20, bounds)
    assert "new" not in same["doc_id"].to_pylist()
    assert after.scores[DENSE][0] == bounds.scores[DENSE][0]
    assert np.isneginf(bounds.scores[BM25][0])  # No document shares a word: that list is complete.
    again = carried_lists.Bounds.from_table(bounds.to_table())
    assert again.doc_ids[DENSE].equals(bounds.doc_ids[DENSE])


def test_short_lists_underflow_unless_they_hold_all_there_is() -> None:
    rows = {f"d{i}": (1.0 - i / 100, 0.0) for i in range(30)}
    table, bounds, _ = carried_lists.cut(pool(rows), 1, NAMES, 20)
    few, _, lengths = carried_lists.cut(table[:9], 1, NAMES, 20, bounds)
    assert few.num_rows == 9
    assert carried_lists.underflows(bounds, lengths, 10).tolist() == [True]
    assert carried_lists.underflows(bounds, lengths, 9).tolist() == [False]
    whole, complete, lengths = carried_lists.cut(pool(dict(list(rows.items())[:5])), 1, NAMES, 20)
    assert whole.num_rows == 5
    assert carried_lists.underflows(complete, lengths, 10).tolist() == [False]
