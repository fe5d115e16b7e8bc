"""Moves into and out of the top, against a hand-made case and a plain count."""

import numpy as np
import pyarrow as pa

from nightrank.evaluation.movement import COUNTS, SCHEMA, movement, totals


def ranked(lists):
    rows = [(q, d, i) for q, docs in lists.items() for i, d in enumerate(docs, 1)]
    query_id, doc_id, rank = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "query_id": pa.array(query_id, pa.string()),
            "doc_id": pa.array(doc_id, pa.string()),
            "rank": pa.array(rank, pa.int32()),
        }
    )


def judged(grades):
    rows = [(q, d, g) for q, docs in grades.items() for d, g in docs.items()]
    query_id, doc_id, relevance = zip(*rows, strict=True)
    return pa.table(
        {"query_id": query_id, "doc_id": doc_id, "relevance": pa.array(relevance, pa.int32())}
    )


def test_every_kind_of_move_is_counted_once():
    grades = {"q": {"kept": 1, "up": 2, "harmed": 1, "left": 3, "lost": 1, "judged0": 0, "bad": -1}}
    before = {"q": ["kept", "harmed", "judged0", "unjudged", "up", "left", "rises", "bad"]}
    after = {"q": ["up", "kept", "rises", "bad"]}
    got = movement(judged(grades), ranked(before), ranked(after), cutoff=4)
    assert got.schema == SCHEMA
    assert got.to_pylist() == [
        {
            "query_id": "q",
            "relevant": 5,
            "kept": 1,
            "false_positives_demoted": 2,
            "false_negatives_promoted": 1,
            "harmful_moves": 1,
            "false_positives_promoted": 2,
            "left_below": 1,
            "missed_at_reranking": 2,
            "lost_at_retrieval": 1,
        }
    ]


def test_only_judged_queries_count_and_unanswered_ones_are_lost_at_retrieval():
    grades = {"q1": {"a": 1}, "q2": {"b": 1, "c": 0}}
    lists = ranked({"q1": ["a"], "q9": ["x", "y"]})
    got = movement(judged(grades), lists, lists)
    assert got["query_id"].to_pylist() == ["q1", "q2"]
    assert got["kept"].to_pylist() == [1, 0]
    assert got["lost_at_retrieval"].to_pylist() == [0, 1]
    one = movement(judged(grades), lists, lists, queries=pa.array(["q1"]))
    assert one["query_id"].to_pylist() == ["q1"]


def test_every_relevant_document_has_exactly_one_fate():
    generator = np.random.default_rng(3)
    pools = {f"q{i}": [f"d{j}" for j in generator.permutation(60)[:40]] for i in range(25)}
    grades = {q: {f"d{j}": int(generator.integers(-1, 3)) for j in range(50)} for q in pools}
    after = {q: [docs[i] for i in generator.permutation(40)][:10] for q, docs in pools.items()}
    got = movement(judged(grades), ranked(pools), ranked(after))
    sums = totals(got)["all"]
    fates = ["kept", "false_negatives_promoted", "harmful_moves", "left_below", "lost_at_retrieval"]
    assert sums["relevant"] == sum(g >= 1 for docs in grades.values() for g in docs.values())
    assert sums["relevant"] == sum(sums[fate] for fate in fates)
    assert sums["missed_at_reranking"] == sums["harmful_moves"] + sums["left_below"]
    # Both tops are full, so as many enter as leave.
    entering = sums["false_negatives_promoted"] + sums["false_positives_promoted"]
    assert entering == sums["false_positives_demoted"] + sums["harmful_moves"] > 0
    same = totals(movement(judged(grades), ranked(pools), ranked(pools)))["all"]
    assert same["harmful_moves"] == same["false_positives_demoted"] == 0


def test_totals_by_vertical_add_up():
    lists = ranked({"q1": ["a"], "q2": ["b"]})
    got = movement(judged({"q1": {"a": 1}, "q2": {"b": 1}, "q3": {"c": 1}}), lists, lists)
    by = totals(got, {"q1": "law", "q2": "med", "q3": "law"})
    assert list(by) == ["all", "law", "med"]
    for name in ["num_queries", *COUNTS]:
        assert by["all"][name] == by["law"][name] + by["med"][name]
    assert by["law"]["lost_at_retrieval"] == 1
