"""The deadline that `budget.until` sets for a run, its retries and the next evening."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nightrank.cli.app import app
from nightrank.errors import NightrankError
from nightrank.generations.results import open_lake
from nightrank.runtime import deadline
from nightrank.runtime.events import Events
from nightrank.storage.store import Store
from tests.support.collection import Collection
from tests.support.lake import execute, opened

PLAN = "results/p.0"
Write = Callable[..., str]


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the machine's time zone; UTC at first."""

    def to(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    to("UTC")
    yield to
    monkeypatch.undo()
    time.tzset()


def at(text: str) -> float:
    """Seconds since the epoch of a UTC time."""
    return datetime.datetime.fromisoformat(f"{text}+00:00").timestamp()


FIRST, DEADLINE = at("2026-11-29T23:30"), at("2026-11-30T06:00")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    lake_store = Store(str(tmp_path / "lake"))
    assert deadline.window_of(lake_store, PLAN, "06:00", FIRST).deadline == DEADLINE
    return lake_store


@pytest.mark.parametrize("retry", ["29T23:31", "30T00:10", "30T05:59", "30T06:05", "30T14:44"])
def test_a_retry_has_the_deadline_of_the_first_try(store: Store, retry: str) -> None:
    assert deadline.window_of(store, PLAN, "06:00", at(f"2026-11-{retry}")).deadline == DEADLINE


@pytest.mark.parametrize("later", ["2026-11-30T14:46", "2026-11-30T23:29", "2026-12-07T23:30"])
def test_the_same_plan_asked_for_later_has_a_window_of_its_own(store: Store, later: str) -> None:
    began = at(later)
    second = deadline.window_of(store, PLAN, "06:00", began)
    assert (second.began, second.deadline) == (began, deadline.next_time("06:00", began))
    assert second.deadline > began
    # Its own retries are held to that one.
    assert deadline.window_of(store, PLAN, "06:00", second.deadline + 300) == second
    assert sorted(store.files(PLAN)) == ["window-0001.json", "window-0002.json"]


def test_another_plan_has_a_window_of_its_own(store: Store) -> None:
    began = at("2026-11-30T06:05")
    assert deadline.window_of(store, "results/q.0", "06:00", began).deadline == at(
        "2026-12-01T06:00"
    )


def test_a_retry_of_a_schedule_keeps_its_deadline_though_the_plan_changed(store: Store) -> None:
    # At 06:05 the input is another: what counts is when the schedule began.
    assert deadline.window_of(store, "results/q.0", "06:00", FIRST).deadline == DEADLINE


def test_before_the_deadline_and_in_the_next_window_nothing_is_too_late(store: Store) -> None:
    late = [
        deadline.why_expired(store, PLAN, "06:00", at(f"2026-11-30T{text}")) != ""
        for text in ("00:10", "05:59", "06:00", "14:44", "14:46")
    ]
    assert late == [False, False, True, True, False]
    assert deadline.why_expired(store, PLAN, None, DEADLINE) == ""
    assert deadline.why_expired(store, "results/q.0", "06:00", DEADLINE) == ""


def test_another_until_is_another_deadline(store: Store) -> None:
    raised = deadline.window_of(store, PLAN, "08:30", at("2026-11-30T06:10"))
    assert raised.deadline == at("2026-11-30T08:30")
    assert deadline.window_of(store, PLAN, "08:30", at("2026-11-30T08:40")) == raised


@pytest.mark.parametrize("until", ["00:15", "06:30", "23:00"])
@pytest.mark.parametrize("shift", [-600, 0, 900])
def test_every_evening_of_a_schedule_is_a_new_window(
    tmp_path: Path, until: str, shift: int
) -> None:
    store, began = Store(str(tmp_path / "lake")), at("2026-11-29T01:30")
    first = deadline.window_of(store, PLAN, until, began + 60)
    second = deadline.window_of(store, PLAN, until, began + deadline.DAY_SECONDS + shift)
    assert second.deadline == first.deadline + deadline.DAY_SECONDS
    assert first.began < first.deadline < first.next_begins < first.began + deadline.DAY_SECONDS


def test_a_retry_in_another_time_zone_has_the_same_instant(
    store: Store, zone: Callable[[str], None]
) -> None:
    zone("Asia/Tokyo")  # Where 06:00 was reached two and a half hours before the first try.
    assert deadline.window_of(store, PLAN, "06:00", at("2026-11-30T00:10")).deadline == DEADLINE


@pytest.mark.parametrize(
    ("began", "expected"),
    [
        ("2026-03-28T22:30", "2026-03-29T04:00"),  # Berlin's clocks go forward at 02:00.
        ("2026-10-24T21:30", "2026-10-25T05:00"),  # And back at 03:00.
        ("2026-03-28T05:30", "2026-03-29T04:00"),  # 06:30 there: nearly a day, an hour shorter.
        ("2026-10-24T04:00", "2026-10-25T05:00"),  # At 06:00 itself: the next one, 25 hours on.
    ],
)
def test_the_calendar_counts_where_clocks_change(
    zone: Callable[[str], None], began: str, expected: str
) -> None:
    zone("Europe/Berlin")
    assert deadline.next_time("06:00", at(began)) == at(expected)


def test_of_two_runs_that_begin_at_once_both_share_the_first_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, rival = Store(str(tmp_path / "lake")), Store(str(tmp_path / "lake"))
    first = deadline.new_window("06:00", FIRST)
    create = store.put_if_absent

    def overtaken(key: str, data: bytes) -> bool:
        deadline.window_of(rival, PLAN, "06:00", FIRST)
        return create(key, data)

    monkeypatch.setattr(store, "put_if_absent", overtaken)
    assert deadline.window_of(store, PLAN, "06:00", FIRST + 2) == first


def test_a_window_recorded_by_a_clock_that_is_days_ahead_is_not_ours(store: Store) -> None:
    began = FIRST - 3 * deadline.DAY_SECONDS
    assert (
        deadline.window_of(store, PLAN, "06:00", began).deadline
        == DEADLINE - 3 * deadline.DAY_SECONDS
    )


def test_a_damaged_record_is_named(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "lake" / PLAN / "window-0001.json"
    file.write_bytes(file.read_bytes().replace(b"06:00:00", b"07:00:00"))
    with pytest.raises(NightrankError) as caught:
        deadline.window_of(store, PLAN, "06:00", FIRST)
    assert caught.value.code == "E_CORRUPT" and str(file) in caught.value.where


def store_try(store: Store, folder: str, began: float, seconds: float, end: str | None) -> str:
    """Stores the events of a run that took so long, as `Events` does; returns the run's name."""
    run = Events(store).run
    last = began + seconds
    lines = [("run_started", began), ("stage_started", last), *([(end, last)] if end else [])]
    stamp = datetime.datetime.fromtimestamp
    data = "".join(
        json.dumps({"time": stamp(t, datetime.UTC).isoformat(), "run": run, "event": name}) + "\n"
        for name, t in lines
    )
    assert store.put_if_absent(f"{folder}/events-{run}.jsonl", data.encode())
    return run


def test_tries_that_failed_are_spent_and_a_run_that_ended_well_is_not(tmp_path: Path) -> None:
    store, now = Store(str(tmp_path / "lake")), at("2026-11-29T20:00")

    def spent(run: str = "", later: float = 0.0) -> float:
        return deadline.failed_seconds(store, PLAN, run, now + later)

    assert spent() == 0
    store_try(store, PLAN, now, 5000, "budget_reached")
    assert spent() == 0  # The same command continues it, with a budget of its own.
    store_try(store, PLAN, now + 6000, 100, "run_failed")
    own = store_try(store, PLAN, now + 7000, 20, None)  # Killed.
    assert spent() == 120 and spent(own) == 100
    assert (
        spent(later=deadline.DAY_SECONDS + 6500) == 20
        and spent(later=deadline.DAY_SECONDS + 7500) == 0
    )


def test_money_that_failed_tries_spent_ends_the_next_try_at_once(
    collection: Collection, tmp_path: Path, write_config: Write
) -> None:
    budget = {"usd": 15.0, "usd_per_hour": 10.0}
    config = write_config(collection.config(tmp_path / "lake", budget=budget))

    def tried(last: str | None) -> str:
        with opened(config) as job:
            execute(job, last=last)
            return job.plan.own_folder

    folder = tried("delta")
    store = open_lake(str(tmp_path / "lake"), "tiny")
    store_try(store, folder, time.time() - 2 * 3600, 2 * 3600, "run_failed")
    with pytest.raises(NightrankError, match=r"budget\.usd = 15 is spent"):
        tried(None)
    tried(None)  # That one reached its limit: the same command continues with a new budget.


def test_a_deadline_through_the_command(
    collection: Collection,
    tmp_path: Path,
    write_config: Write,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = write_config(collection.config(tmp_path / "lake", budget={"until": "06:00"}))
    now = [FIRST]
    monkeypatch.setattr("time.time", lambda: now[0])

    def tried(last: str | None = None) -> Any:
        with opened(config, verb="nightly") as job:
            execute(job, last=last)
            assert job.meter is not None
            # The clock is still, the run is not.
            return pytest.approx(job.meter.deadline(), abs=30)

    assert tried("delta") == DEADLINE
    now[0] = at("2026-11-30T00:10")
    assert tried("merge") == DEADLINE
    now[0] = at("2026-11-30T06:05")
    with pytest.raises(NightrankError) as caught:
        tried()
    assert caught.value.exit_code == 10
    late = "budget.until = 06:00 has passed (runs from 2026-11-30 14:45 on get the next deadline)"
    assert late in str(caught.value)
    # `plan` and `nightly --dry-run` know it too.
    for verb in (["plan", config], ["nightly", config, "--dry-run"]):
        capsys.readouterr()
        app([*verb, "--json"], standalone_mode=False)
        warnings = json.loads(capsys.readouterr().out)["warnings"]
        assert [text for text in warnings if "at once" in text and text.endswith(late)]
    lake = open_lake(str(tmp_path / "lake"), "tiny")
    (plan,) = (name for name in lake.folders("results") if name != "_log")
    assert len([name for name in lake.files(f"results/{plan}") if "window" in name]) == 1
    now[0] = at("2026-11-30T23:30")
    assert tried() == at("2026-12-01T06:00")
    # Published and current: nothing to do, whatever the time.
    now[0] = at("2026-12-01T06:05")
    with opened(config, verb="nightly") as job:
        assert execute(job)["already_published"]


def test_the_scheduled_time_of_a_run_can_be_given(
    collection: Collection,
    tmp_path: Path,
    write_config: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = write_config(collection.config(tmp_path / "lake", budget={"until": "06:00"}))
    monkeypatch.setattr("time.time", lambda: at("2026-11-30T06:05"))
    # A first try of another plan began it: this plan's own first run is late already.
    job_of_window = opened(config, verb="nightly", began=FIRST)
    with pytest.raises(NightrankError) as caught, job_of_window as job:
        execute(job)
    assert caught.value.code == "E_BUDGET"
