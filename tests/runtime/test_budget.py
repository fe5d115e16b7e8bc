"""When a run has to end: each limit by itself."""

from __future__ import annotations

import datetime

import pytest

from nightrank.config_running import Budget
from nightrank.runtime.budget import Meter, _seconds_until


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


@pytest.mark.parametrize("minutes", [-1, 1, 90])
def test_a_time_of_day_is_the_next_one(minutes: int) -> None:
    then = datetime.datetime.now() + datetime.timedelta(minutes=minutes)
    left = _seconds_until(f"{then:%H:%M}")
    wanted = minutes * 60 if minutes > 0 else 86_400 + minutes * 60
    assert wanted - 61 <= left <= wanted
    budget = Budget(until=f"{then:%H:%M}")
    assert budget.limited and Meter(budget, lambda: 0.0).reason() == ""
