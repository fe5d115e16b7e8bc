"""Measures against hand-computed values and against trec_eval itself."""

import math

import numpy as np
import pyarrow as pa
import pytest

from nightrank.errors import NightrankError
from nightrank.evaluation.measures import PER_QUERY_SCHEMA, ceiling, evaluate


def qrels(*rows):
    query_id, doc_id, relevance = zip(*rows, strict=True)
    return pa.table(
        {"query_id": query_id, "doc_id": doc_id, "relevance": pa.array(relevance, pa.int32())}
    )


def run(*rows):
    query_id, doc_id, score = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "query_id": pa.array(query_id, pa.string()),
            "doc_id": pa.array(doc_id, pa.string()),
            "score": pa.array(score, pa.float32()),
        }
    )


def values(table, name="r"):
    return {
        (row["query_id"], row["measure"]): row["value"]
        for row in table.to_pylist()
        if row["run"] == name
    }


JUDGED = qrels(("q1", "a", 2), ("q1", "b", 1), ("q1", "c", 0), ("q2", "z", 1))


def test_hand_computed_values():
    got = values(
        evaluate(
            JUDGED,
            {"r": run(("q1", "x", 3.0), ("q1", "b", 2.0), ("q1", "a", 1.0), ("q2", "y", 1.0))},
            ["nDCG@10", "nDCG@2", "RR@10", "RR", "R@2", "P@2"],
        )
    )
    ideal = 2 + 1 / math.log2(3)
    assert got["q1", "nDCG@10"] == pytest.approx((1 / math.log2(3) + 2 / math.log2(4)) / ideal)
    assert got["q1", "nDCG@2"] == pytest.approx((1 / math.log2(3)) / ideal)
    assert got["q1", "RR@10"] == got["q1", "RR"] == got["q1", "R@2"] == got["q1", "P@2"] == 0.5
    assert got["q2", "nDCG@10"] == 0.0


def test_a_judged_query_that_the_run_does_not_answer_counts_as_zero():
    table = evaluate(JUDGED, {"r": run(("q1", "a", 1.0)), "none": run()}, ["nDCG@10", "RR@10"])
    assert table.schema == PER_QUERY_SCHEMA
    assert table["query_id"].to_pylist() == ["q1"] * 4 + ["q2"] * 4
    assert table["run"].to_pylist() == ["r", "r", "none", "none"] * 2
    assert table["measure"].to_pylist() == ["nDCG@10", "RR@10"] * 4
    assert values(table)["q2", "RR@10"] == 0.0
    assert set(values(table, "none").values()) == {0.0}


def test_only_the_given_queries_are_measured_and_unjudged_ones_are_ignored():
    answers = run(("q1", "a", 1.0), ("q7", "a", 1.0))
    table = evaluate(JUDGED, {"r": answers}, ["RR@10"], queries=pa.array(["q1", "q7"]))
    assert values(table) == {("q1", "RR@10"): 1.0}
    with pytest.raises(NightrankError, match="E_EMPTY"):
        evaluate(JUDGED, {"r": answers}, ["RR@10"], queries=pa.array(["q7"]))


@pytest.mark.parametrize("measure", ["RR@1", "RR@10", "nDCG@1", "P@1", "R@1", "Success@1"])
def test_ties_go_to_the_higher_doc_id_under_every_measure(measure):
    tied = run(("q1", "a", 1.0), ("q1", "c", 1.0), ("q2", "a", -0.0), ("q2", "z", 0.0))
    got = values(evaluate(JUDGED, {"r": tied}, [measure]))
    assert got["q1", measure] == (0.5 if measure == "RR@10" else 0.0)
    assert got["q2", measure] == 1.0


def test_values_equal_trec_evals_own_on_random_runs_full_of_ties():
    import pytrec_eval

    generator = np.random.default_rng(4)
    judged, answers = [], []
    for q in range(30):
        pool = [f"d{i}" for i in generator.permutation(80)]
        judged += [(f"q{q}", d, int(generator.integers(0, 4))) for d in pool[:25]]
        answers += [(f"q{q}", d, float(generator.integers(0, 5)) / 2) for d in pool[10:70]]
    got = values(
        evaluate(qrels(*judged), {"r": run(*answers)}, ["nDCG@10", "AP", "R@20", "P@5", "RR"])
    )
    nested = [{}, {}]
    for where, rows in zip(nested, (judged, answers), strict=True):
        for query_id, doc_id, value in rows:
            where.setdefault(query_id, {})[doc_id] = value
    names = {"nDCG@10": "ndcg_cut_10", "AP": "map", "R@20": "recall_20", "P@5": "P_5"}
    names["RR"] = "recip_rank"
    oracle = pytrec_eval.RelevanceEvaluator(nested[0], set(names.values())).evaluate(nested[1])
    for (query_id, measure), value in got.items():
        assert value == pytest.approx(oracle[query_id][names[measure]]), (query_id, measure)


def test_the_ceiling_is_the_best_order_of_the_pool_and_no_more():
    pool = run(
        ("q1", "c", 9.0), ("q1", "b", 8.0), ("q1", "x", 7.0), ("q2", "y", 1.0), ("q9", "a", 1)
    )
    best = ceiling(JUDGED, pool)
    assert sorted(zip(*best.to_pydict().values(), strict=True)) == [
        ("q1", "b", 1.0),
        ("q1", "c", 0.0),
        ("q1", "x", 0.0),
        ("q2", "y", 0.0),
    ]
    got = values(evaluate(JUDGED, {"r": best}, ["nDCG@10", "RR@10"]))
    # `a`, of relevance 2, was not retrieved: no reordering brings it back.
    assert got["q1", "nDCG@10"] == pytest.approx(1 / (2 + 1 / math.log2(3)))
    assert (got["q1", "RR@10"], got["q2", "RR@10"]) == (1.0, 0.0)


def test_no_reordering_of_the_pool_beats_the_ceiling():
    generator = np.random.default_rng(8)
    judged = [
        (f"q{q}", f"d{i}", int(generator.integers(-1, 4))) for q in range(9) for i in range(20)
    ]
    pool = [(f"q{q}", f"d{i}", float(generator.random())) for q in range(9) for i in range(10, 40)]
    table = evaluate(
        qrels(*judged), {"r": run(*pool), "best": ceiling(qrels(*judged), run(*pool))}, ["nDCG@10"]
    )
    best = values(table, "best")
    assert all(value <= best[key] + 1e-12 for key, value in values(table).items())


@pytest.mark.parametrize(
    "name", ["nDCGG@10", "nDCG@", "", "P", "nDCG(foo=1)@10", "__import__('os')"]
)
def test_a_measure_that_is_not_known_is_an_error_of_the_config(name):
    with pytest.raises(NightrankError, match=r"E_CONFIG.*evaluate\.measures"):
        evaluate(JUDGED, {"r": run(("q1", "a", 1.0))}, ["nDCG@10", name])


def test_a_damaged_run_is_refused():
    with pytest.raises(NightrankError, match=r"E_CORRUPT.*not finite.*'q1', doc_id 'b'"):
        evaluate(JUDGED, {"r": run(("q1", "a", 1.0), ("q1", "b", float("nan")))}, ["RR@10"])
    with pytest.raises(NightrankError, match=r"E_CORRUPT.*twice.*'q1'"):
        evaluate(JUDGED, {"r": run(("q1", "a", 1.0), ("q1", "a", 2.0))}, ["RR@10"])
