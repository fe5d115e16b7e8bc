"""The estimate of when a run ends, while it runs."""

from __future__ import annotations

import time

import pytest

from nightrank.config.running import Budget
from nightrank.runtime.budget import Meter
from nightrank.runtime.eta import EtaEstimator

EXPECTED = {"embed": 100.0, "search": 50.0, "rerank": 1000.0}


def ahead(eta: EtaEstimator) -> float:
    return eta.finish() - time.time()


def test_before_its_first_unit_a_stage_takes_what_it_took_last_time() -> None:
    eta = EtaEstimator(EXPECTED)
    eta.begin("embed", 10)
    assert ahead(eta) == pytest.approx(1150, abs=1)
    eta.end("embed")
    eta.end("search")  # Complete before this run.
    assert ahead(eta) == pytest.approx(1000, abs=1)
    eta.begin("rerank", 4)
    eta.end("rerank")
    assert ahead(eta) == pytest.approx(0, abs=1)


def test_then_its_own_pace_counts() -> None:
    eta = EtaEstimator(EXPECTED)
    eta.end("embed")
    began = time.monotonic()
    eta.begin("search", 3000)
    while time.monotonic() - began < 0.05:
        pass
    eta.advance()
    # 50 ms for one of 3,000 units: 150 s for the others, not the 50 s of last time.
    assert 145 < ahead(eta) - 1000 < 600
    eta.advance()
    assert 70 < eta.stage_left() < 300


def test_a_stage_that_nobody_knows_counts_while_it_runs() -> None:
    eta = EtaEstimator()
    eta.begin("merge", 2)
    assert eta.stage_left() == 0
    eta.advance()
    assert 0 <= eta.stage_left() < 1


def test_it_warns_of_a_limit_that_comes_first_and_not_before_it_knows() -> None:
    limit = time.time() + 600
    late, early = (EtaEstimator({"rerank": s}, lambda: limit) for s in (1800.0, 60.0))
    for eta in (late, early):
        eta.begin("embed", 1)
        assert not eta.warning()
        eta.advance()
    assert "20 min after its limit" in late.warning()
    assert not early.warning()


def test_a_deadline_is_the_first_of_all_limits() -> None:
    hour = Meter(Budget(gpu_hours=4.0), lambda: 8.0)
    assert hour.deadline() == pytest.approx(time.time() + 1800, abs=1)
    both = Meter(Budget(gpu_hours=4.0, usd=1.0, usd_per_hour=10.0), lambda: 8.0)
    assert both.deadline() == pytest.approx(time.time() + 360, abs=1)
    # Before the cluster is up nobody knows how many GPUs it has.
    assert Meter(Budget(gpu_hours=4.0), lambda: 0.0).deadline() is None
