"""When a run has to end: each limit by itself."""

from __future__ import annotations

import time

import pytest

from nightrank.config.running import Budget
from nightrank.runtime.budget import Meter
from nightrank.runtime.deadline import Window


def test_without_a_limit_there_is_no_end() -> None:
    assert not Budget().limited
    assert Meter(Budget(), lambda: 8.0).reason() == ""


def test_gpu_hours_are_those_of_all_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    meter = Meter(Budget(gpu_hours=4.0), lambda: 8.0)
    now[0] = 29 * 60.0
    assert meter.reason() == ""
    now[0] = 31 * 60.0
    assert meter.reason() == "budget.gpu_hours = 4 are used up"


def test_money_is_the_clusters_price_times_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    meter = Meter(Budget(usd=30.0, usd_per_hour=20.0), lambda: 0.0)
    now[0] = 89 * 60.0
    assert meter.reason() == ""
    now[0] = 91 * 60.0
    assert meter.reason() == "budget.usd = 30 is spent"
    with pytest.raises(ValueError, match="usd needs usd_per_hour"):
        Budget(usd=30.0)


@pytest.mark.parametrize(
    "budget", [Budget(gpu_hours=4.0), Budget(usd=10.0, usd_per_hour=20.0)], ids=["gpus", "money"]
)
def test_what_failed_tries_took_is_spent(monkeypatch: pytest.MonkeyPatch, budget: Budget) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.time", lambda: 1e9 + now[0])
    meter = Meter(budget, lambda: 8.0, find_failed=lambda: 20 * 60.0)  # Both last half an hour.
    assert meter.deadline() == 1e9 + 10 * 60.0
    now[0] = 9 * 60.0
    assert meter.reason() == "" and meter.deadline() == 1e9 + 10 * 60.0
    now[0] = 10 * 60.0
    assert meter.reason() != ""


def test_the_window_is_asked_for_once_and_not_before_there_is_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, calls = [1e9], []
    monkeypatch.setattr("time.time", lambda: now[0])
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def window(until: str, began: float) -> Window:
        calls.append((until, began))
        return Window(until, began - 3600, began + 600)

    meter = Meter(Budget(until="06:00"), lambda: 0.0, window)
    now[0] += 599
    assert not calls
    assert meter.reason() == "" and meter.deadline() == 1e9 + 600
    now[0] += 1
    assert meter.reason().startswith("budget.until = 06:00 has passed (runs from ")
    assert calls == [("06:00", 1e9)]


def test_a_clock_that_is_set_during_a_run_moves_no_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elapsed, offset = [0.0], [0.0]
    monkeypatch.setattr("time.monotonic", lambda: elapsed[0])
    monkeypatch.setattr("time.time", lambda: 1e9 + elapsed[0] + offset[0])
    meter = Meter(
        Budget(until="06:00"), lambda: 0.0, lambda u, began: Window(u, began, began + 600)
    )
    offset[0] = 3600.0
    assert meter.reason() == ""
    elapsed[0], offset[0] = 601.0, -3600.0
    assert meter.reason() != ""
    assert time.time() < 1e9 + 600
