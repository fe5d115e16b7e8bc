"""Lift, headroom and intervals."""

import numpy as np
import pyarrow as pa
import pytest

from nightrank.errors import NightrankError
from nightrank.evaluation.lift import SCHEMA, interval, summarise
from nightrank.evaluation.measures import PER_QUERY_SCHEMA


def per_query(**runs):
    rows = [
        {"query_id": f"q{i}", "run": run, "measure": measure, "value": value}
        for run, values in runs.items()
        for i, value in enumerate(values)
        for measure in ("nDCG@10", "other")
    ]
    for row in rows:
        row["value"] = 0.5 if row["measure"] == "other" else row["value"]
    return pa.Table.from_pylist(rows, schema=PER_QUERY_SCHEMA)


def test_means_headroom_and_counts_by_vertical():
    table = per_query(
        first_stage=[0.2, 0.4, 0.6, 1.0],
        reranked=[0.6, 0.4, 0.4, 1.0],
        ceiling=[1.0, 0.4, 1.0, 1.0],
    )
    verticals = {"q0": "law", "q1": "law", "q2": "biomedical", "q9": "none of ours"}
    got = summarise(table, "nDCG@10", verticals)
    assert got.schema == SCHEMA
    assert got["vertical"].to_pylist() == ["all", "biomedical", "law"]
    whole, biomedical, law = got.to_pylist()
    assert whole["num_queries"] == 4
    assert whole["first_stage"] == pytest.approx(0.55)
    assert whole["reranked"] == pytest.approx(0.6)
    assert whole["ceiling"] == pytest.approx(0.85)
    assert whole["lift"] == pytest.approx(0.05)
    assert whole["headroom_reached"] == pytest.approx(0.05 / 0.3)
    assert (whole["improved"], whole["degraded"], whole["unchanged"]) == (1, 1, 2)
    assert biomedical["lift"] == biomedical["lift_low"] == biomedical["lift_high"]
    assert law["headroom_reached"] == pytest.approx(0.5)
    assert law["lift_low"] <= law["lift"] <= law["lift_high"]


def test_a_first_stage_at_its_ceiling_has_no_headroom_to_reach():
    table = per_query(first_stage=[0.5], reranked=[0.4], ceiling=[0.5])
    assert summarise(table, "nDCG@10")["headroom_reached"].to_pylist() == [None]


def test_a_vertical_has_the_same_interval_whatever_stands_beside_it():
    values = np.random.default_rng(0).random((3, 40))
    table = per_query(first_stage=values[0], reranked=values[1], ceiling=values[2])
    one = summarise(table, "nDCG@10", {f"q{i}": "law" for i in range(20)})
    two = summarise(table, "nDCG@10", {f"q{i}": "law" if i < 20 else "med" for i in range(40)})
    assert one.to_pylist()[1] == two.to_pylist()[1]
    assert summarise(table, "nDCG@10", seed=1) != summarise(table, "nDCG@10", seed=2)


def test_the_interval_has_the_width_that_the_normal_law_gives(monkeypatch):
    difference = np.random.default_rng(1).normal(0.1, 0.3, 900)
    low, high = interval(difference, 0)
    half = 1.96 * difference.std() / 30
    assert low == pytest.approx(difference.mean() - half, abs=0.002)
    assert high == pytest.approx(difference.mean() + half, abs=0.002)
    monkeypatch.setattr("nightrank.evaluation.lift.NUMBERS_AT_A_TIME", 1000)
    assert interval(difference, 0) == (low, high)


def test_runs_over_different_queries_are_refused():
    for ceiling in ([0.5], []):
        with pytest.raises(NightrankError, match="E_ACCOUNTING"):
            summarise(
                per_query(first_stage=[0.1, 0.2], reranked=[0.1, 0.2], ceiling=ceiling), "nDCG@10"
            )
    with pytest.raises(NightrankError, match="E_ACCOUNTING"):
        summarise(per_query(), "nDCG@10")
