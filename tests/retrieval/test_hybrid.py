"""Two lists as one: what is pooled, and by what it is ranked."""

import numpy as np
import pyarrow as pa
import pytest

from nightrank.retrieval import hybrid


def table(rows):
    query, doc_id, dense, lexical = zip(*rows, strict=True)
    return pa.table(
        {
            "query": pa.array(query, pa.int32()),
            "doc_id": pa.array(doc_id),
            hybrid.DENSE: pa.array(dense, pa.float32()),
            hybrid.BM25: pa.array(lexical, pa.float32()),
            # A document of no word and no likeness is one that vectors did not find.
            hybrid.FOUND_BY_VECTOR: pa.array([score > 0 for score in dense]),
        }
    )


ROWS = [
    (0, "a", 0.9, 0.0),
    (0, "b", 0.8, 1.0),
    (0, "c", 0.1, 7.0),
    (0, "d", 0.2, 0.0),
    (0, "e", 0.0, 6.0),
    (1, "a", 0.5, 0.0),
]


def test_a_row_of_either_list_stays_and_no_other():
    kept = hybrid.best_of_either(table(ROWS), 1)
    assert kept.select(["query", "doc_id"]).to_pylist() == [
        {"query": 0, "doc_id": "a"},
        {"query": 0, "doc_id": "c"},
        {"query": 1, "doc_id": "a"},
    ]
    two = hybrid.best_of_either(table(ROWS), 2)
    assert set(two["doc_id"].to_pylist()) == {"a", "b", "c", "e"}


def test_what_vectors_did_not_find_stands_in_no_dense_list():
    missed = table([(0, "a", 0.9, 0.0), (0, "b", 0.8, 0.0), (0, "c", 0.7, 5.0)])
    missed = missed.set_column(4, hybrid.FOUND_BY_VECTOR, pa.array([True, False, False]))
    kept = hybrid.best_of_either(missed, 2)
    assert kept["doc_id"].to_pylist() == ["a", "c"]


def test_the_best_of_parts_hold_the_best_of_the_whole():
    rng = np.random.default_rng(4)
    rows = [
        (q, f"d{i:03d}", float(rng.integers(0, 9)) / 9, float(rng.integers(0, 5)))
        for q in range(6)
        for i in range(200)
    ]
    whole = hybrid.best_of_either(table(rows), 10)
    parts = [hybrid.best_of_either(table(rows[i::7]), 10) for i in range(7)]
    merged = hybrid.best_of_either(pa.concat_tables(parts), 10)
    order = [("query", "ascending"), ("doc_id", "ascending")]
    assert merged.sort_by(order).equals(whole.sort_by(order))


def test_the_fused_score_by_hand():
    pooled = table(ROWS[:3])
    fused = hybrid.fuse(pooled, 0.25, 2)
    dense, lexical = np.array([0.9, 0.8, 0.1]), np.array([0.0, 1.0, 7.0])
    z = [(x - x.mean()) / x.std() for x in (dense, lexical)]
    expected = 0.75 * z[0] + 0.25 * z[1]
    order = np.argsort(-expected)[:2]
    assert fused["doc_id"].to_pylist() == ["abc"[i] for i in order]
    assert fused["score"].to_pylist() == pytest.approx(expected[order].tolist(), abs=1e-6)
    assert fused["rank"].to_pylist() == [1, 2]


def test_an_empty_pool_stays_empty():
    empty = table(ROWS)[:0]
    assert hybrid.fuse(hybrid.best_of_either(empty, 5), 0.4, 5).num_rows == 0
