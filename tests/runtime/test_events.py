"""What a run tells of itself, a line each: here while it goes, in the lake when it ends."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nightrank.errors import NightrankError
from nightrank.generations.results import open_lake
from nightrank.generations.retention import collect
from nightrank.runtime import events
from nightrank.runtime.executor import SerialExecutor, run_stage
from nightrank.runtime.progress import Progress
from nightrank.storage.store import Store
from tests.support.collection import Collection, write_jsonl
from tests.support.lake import execute, opened, run
from tests.support.stages import stage

Write = Callable[..., str]
TITLE = "confidential wording of a document"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "nightrank"


def stored(root: Path) -> list[list[dict[str, Any]]]:
    """The events of every run of a lake, oldest first."""
    whole = [path for path in root.rglob("events-*.jsonl") if path.name.count(".") == 1]
    paths = sorted(whole, key=lambda path: path.name)
    return [events.read_events(path.read_bytes()) for path in paths]


def names(lines: list[dict[str, Any]]) -> list[str]:
    return [line["event"] for line in lines]


def test_a_run_is_told_from_start_to_publication(
    collection: Collection, tmp_path: Path, write_config: Write, state: Path
) -> None:
    config = write_config(collection.config(tmp_path / "lake"))
    with opened(config) as job:
        execute(job, last="merge")
        plan = job.plan
    run(config)
    first, second = stored(tmp_path / "lake")
    assert names(first)[0] == "run_started" and names(first)[-1] == "run_finished"
    assert "published" not in names(first)
    # Once, after the stages: listing the stages of a run reports nothing.
    assert names(first).count("index_published") == 1 and "index_published" not in names(second)
    assert names(first).index("index_published") > names(first).index("stage_finished")
    assert names(second)[0] == "run_resumed" and names(second)[-1] == "run_finished"
    (published,) = [line for line in second if line["event"] == "published"]
    assert published["generation"] == 1
    assert {line["plan"] for line in first + second} == {plan.plan_id}
    assert len({line["run"] for line in first}) == len({line["run"] for line in second}) == 1
    assert [line["time"] for line in first] == sorted(line["time"] for line in first)
    begun = [line["stage"] for line in second if line["event"] == "stage_started"]
    ended = {line["stage"]: line for line in second if line["event"] == "stage_finished"}
    assert set(begun) == set(ended) and "merge" in {
        line["stage"] for line in second if line["event"] == "stage_reused"
    }
    slow = {line["stage"]: line for line in second if line["event"] == "slowest_unit"}
    for name, line in slow.items():
        assert line["unit"] and line["node"] and line["seconds"] <= ended[name]["seconds"] + 0.01
    # The local copy says the same.
    assert [events.read_events(p.read_bytes()) for p in sorted(state.rglob("*.jsonl"))] == [
        first,
        second,
    ]


def test_a_failure_is_the_twin_of_its_line_and_holds_no_text(
    tmp_path: Path, write_config: Write
) -> None:
    few = Collection(tmp_path / "in", documents=20, queries=3)
    rows = [{"_id": f"x{i}", "title": TITLE, "text": ""} for i in range(20)]
    write_jsonl(few.folder / "corpus.jsonl", [*few.documents, *rows])
    config = write_config(few.config(tmp_path / "lake"))
    with pytest.raises(NightrankError) as caught:
        run(config)
    (lines,) = stored(tmp_path / "lake")
    last = lines[-1]
    assert last["event"] == "run_failed" and last["exit"] == 4
    printed = NightrankError(last["code"], last["what"], last.get("where", ""), last.get("do", ""))
    assert str(printed) == str(caught.value)
    assert TITLE not in json.dumps(lines)


def test_of_an_unexpected_error_only_its_kind_is_told(tmp_path: Path) -> None:
    secret = "text of a query"
    store = Store(str(tmp_path / "lake"))
    log = events.Events(store)
    log.folder = "results/x.0"
    with events.recording(log), pytest.raises(ValueError, match=secret):
        try:
            raise ValueError(secret)
        except ValueError as error:
            failure = NightrankError("E_BUG", f"ValueError: {error}", "rerank, part-0")
            failure.__cause__ = error
            events.emit("unit_failed", stage="rerank", unit="part-0", error=failure)
            events.ended(error)
            raise
    log.close()
    lines = events.read_events(store.read(f"results/x.0/{events.file_name(log.run)}"))
    assert [line["what"] for line in lines] == ["ValueError", "ValueError"]
    assert [line["code"] for line in lines] == ["E_BUG", "E_BUG"] and secret not in json.dumps(
        lines
    )


def test_a_budget_and_a_gate_have_events_of_their_own(
    collection: Collection, tmp_path: Path, write_config: Write
) -> None:
    spent = {"usd": 0.0, "usd_per_hour": 1.0}
    config = write_config(collection.config(tmp_path / "lake", budget=spent))
    with pytest.raises(NightrankError):
        run(config)
    (lines,) = stored(tmp_path / "lake")
    assert lines[-1]["event"] == "budget_reached" and lines[-1]["code"] == "E_BUDGET"
    whole = write_config(collection.config(tmp_path / "lake"))
    run(whole)
    few = Collection(tmp_path / "in", documents=100, queries=60)
    smaller = write_config(few.config(tmp_path / "lake"))
    with pytest.raises(NightrankError), opened(smaller) as job:
        job.gate = True
        execute(job)
    lines = stored(tmp_path / "lake")[-1]
    assert lines[-1]["event"] == "held_back" and lines[-1]["code"] == "E_GATE"


def test_what_a_run_has_told_is_known_elsewhere_while_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "STORE_EVERY_SECONDS", 0.0)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "here"))
    store = Store(str(tmp_path / "lake"))
    log = events.Events(store)
    log.plan, log.folder = "x", "results/x.0"
    with events.recording(log):
        events.emit("run_started", verb="nightly")
        assert not store.files("results/x.0")  # It may find nothing to do.
        for name in ("stage_started", "worker_lost", "stage_finished"):
            events.emit(name, stage="rerank")
    here = events.events_of(store, "results/x.0")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
    assert events.events_of(store, "results/x.0") == here
    assert [event["event"] for event in here[0]][::2] == ["run_started", "worker_lost"]
    with events.recording(log):
        events.emit("run_finished")
    log.close()
    (lines,) = events.events_of(store, "results/x.0")
    assert lines[:4] == here[0] and lines[4]["event"] == "run_finished" and len(lines) == 5


def test_what_is_told_last_is_known_elsewhere_though_nothing_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "STORE_EVERY_SECONDS", 1.0)
    store = Store(str(tmp_path / "lake"))
    log = events.Events(store)
    log.plan, log.folder = "x", "results/x.0"
    with events.recording(log):
        for name in ("run_started", "stage_started", "worker_lost", "unit_retried"):
            events.emit(name, stage="rerank")
    for _ in range(100):
        if len(store.files("results/x.0")) == 2:
            break
        time.sleep(0.05)
    parts = sorted(store.files("results/x.0"))
    lines = [
        event["event"]
        for name in parts
        for event in events.read_events(store.read(f"results/x.0/{name}"))
    ]
    assert len(parts) == 2 and lines[2:] == ["worker_lost", "unit_retried"]
    log.close()


def test_a_unit_that_is_tried_again_is_told_with_its_node(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "lake"))
    log = events.Events(store)
    log.folder = "results/x.0"
    work = stage(tmp_path, {1: "raise always", 2: "raise once"}, count=3)
    with events.recording(log), pytest.raises(NightrankError):
        run_stage(work, store, SerialExecutor(), Progress(quiet=True))
    log.close()
    lines = events.read_events(store.read(f"results/x.0/{events.file_name(log.run)}"))
    tried = [line for line in lines if line["event"] == "unit_retried"]
    assert [(line["unit"], line["attempt"]) for line in tried] == [
        ("part-01", 1),
        ("part-01", 2),
        ("part-02", 1),
    ]
    assert all(line["node"] for line in tried)
    (given_up,) = [line for line in lines if line["event"] == "unit_failed"]
    assert given_up["unit"] == "part-01" and given_up["code"] == "E_BUG"
    assert names(lines)[-2:] == ["stage_failed", "slowest_unit"]


def test_a_run_that_finds_nothing_to_do_leaves_nothing_in_the_lake(
    collection: Collection, tmp_path: Path, write_config: Write, state: Path
) -> None:
    config = write_config(collection.config(tmp_path / "lake"))
    run(config)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "lake").rglob("*") if p.is_file()}
    assert run(config)["already_published"]
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "lake").rglob("*") if p.is_file()}
    assert after == before
    (_, idle) = sorted(state.rglob("*.jsonl"))
    assert names(events.read_events(idle.read_bytes()))[-1] == "run_finished"


def test_a_machine_that_keeps_nothing_still_runs(
    collection: Collection, tmp_path: Path, write_config: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    run(write_config(collection.config(tmp_path / "lake")))
    (lines,) = stored(tmp_path / "lake")
    assert names(lines)[-1] == "run_finished"


def test_collection_takes_events_with_the_run_that_they_are_of(
    collection: Collection, tmp_path: Path, write_config: Write
) -> None:
    config = write_config(collection.config(tmp_path / "lake"))
    with opened(config, "results.keep=3") as job:
        execute(job, last="merge")  # Given up for another plan.
    run(config)
    assert len(stored(tmp_path / "lake")) == 2
    then = time.time() - 8 * 86_400
    for path in (tmp_path / "lake").rglob("*.*"):
        os.utime(path, (then, then))
    collect(open_lake(str(tmp_path / "lake"), "tiny"), retain=1, min_age_days=7)
    (lines,) = stored(tmp_path / "lake")
    assert [line["generation"] for line in lines if line["event"] == "published"] == [1]
