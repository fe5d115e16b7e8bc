"""What is shown while a run goes: its stages by number, its time, the start of Ray."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nightrank.errors import NightrankError
from nightrank.flow.offline_rerank import stages_of
from nightrank.flow.run import Run
from nightrank.runtime.eta import EtaEstimator
from nightrank.runtime.executor import run_stage
from nightrank.runtime.progress import Progress
from nightrank.storage.dataset import Manifest, Record
from nightrank.storage.store import Store
from tests.support.collection import Collection, write_jsonl
from tests.support.lake import execute, opened

Config = Callable[..., str]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(progress: Progress, stream: io.StringIO) -> list[str]:
    """Three stages, one of which was not expected; `b` was complete before and says nothing."""
    progress.expect(["a", "b", "c"])
    for name in ("a", "new", "c"):
        progress.start(name, 1, 0)
        record = Record("part-00000-of-00001", 0, {}, {}, 0.1, "here")
        progress.advance(record)
        progress.finish(name, Manifest(name, name, 1, {}, (record,)), 0.1)
    return stream.getvalue().splitlines()


def test_a_line_says_which_stage_it_is_and_when_the_whole_ends() -> None:
    progress = Progress(stream := io.StringIO())
    progress.eta = EtaEstimator({"start": 9.0, "a": 50.0, "b": 50.0, "c": 75.0, "gone": 1000.0})
    first, new, last = lines(progress, stream)
    assert first.startswith("stage 1 of 3  a ") and first.endswith("(0:00 elapsed, ETA 2:05)")
    # One more than was expected; of those that were, only `c` is to come once `c` begins.
    assert new.startswith("stage 2 of 4  new ") and new.endswith("ETA 2:05)")
    assert last.startswith("stage 4 of 4  c ") and last.endswith("ETA 0:00)")


def test_without_a_forecast_no_end_is_named() -> None:
    found = lines(Progress(stream := io.StringIO()), stream)
    assert all("elapsed" in line and "ETA" not in line and "left" not in line for line in found)


def test_a_terminal_shows_the_same_beside_the_bar() -> None:
    progress = Progress(stream := Terminal())
    progress.eta = EtaEstimator({"a": 50.0, "b": 75.0})
    progress.expect(["a", "b"])
    with progress.starting("Ray"):
        pass
    progress.start("a", 2, 0)
    progress.failed("a")
    shown = stream.getvalue()
    assert "stage 1 of 2" in shown and "0:00 elapsed" in shown and "ETA 2:05" in shown
    assert "starting Ray" in shown


def test_quiet_shows_nothing_and_counts_all_the_same() -> None:
    progress = Progress(stream := io.StringIO(), quiet=True)
    with progress.starting("Ray"):
        pass
    assert lines(progress, stream) == []
    assert list(progress.seconds) == ["ray_start", "a", "new", "c"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages that runs reach, as they come."""
    found: list[str] = []
    reach = Progress._reach

    def note(self: Progress, stage: str) -> None:
        found.append(stage)
        reach(self, stage)

    monkeypatch.setattr(Progress, "_reach", note)
    return found


@pytest.mark.parametrize("bm25", [0.0, 0.5])
def test_the_outline_names_the_stages_that_come(
    bm25: float, tmp_path: Path, write_config: Config, started: list[str]
) -> None:
    tiny = Collection(tmp_path / "in", documents=300, queries=12)
    steps = [{"name": n, "model": "toy:overlap", "depth": d} for n, d in (("fast", 9), ("deep", 4))]
    sections: dict[str, Any] = {"rerank": steps, "retrieve": {"bm25": {"weight": bm25}}}
    config = write_config(tiny.config(tmp_path / "lake", **sections))

    def check(last: str | None = None, **options: Any) -> list[str]:
        started.clear()
        with opened(config, **options) as job:
            expected = reported(job, last or "publish")
            execute(job, last=last)
        assert started == expected
        return expected

    assert "train index" in check(last="build_index")
    check(scope="index")
    assert check()[-3:] == ["changes", "rejects", "evaluate"]
    changed = [{**tiny.documents[3], "text": "new"}, *tiny.documents[4:]]
    write_jsonl(tiny.folder / "corpus.jsonl", changed)
    write_jsonl(tiny.folder / "queries.jsonl", tiny.queries[1:])
    incremental = check()
    assert "carry" in incremental and "train index" not in incremental
    write_jsonl(tiny.folder / "queries.jsonl", tiny.queries[2:])
    assert "ingest corpus" not in check() and "ingest corpus" not in outline_of_rank(config)
    write_jsonl(tiny.folder / "queries.jsonl", tiny.queries[3:])
    check(scope="results")


def outline_of_rank(config: str) -> list[str]:
    with opened(config, scope="results") as job:
        return reported(job)


def reported(job: Run, last: str = "publish") -> list[str]:
    """Stages that the run will report."""
    return [stage.label for stage in stages_of(job.plan, job.store, last) if stage.reported]


@pytest.mark.ray
def test_the_start_of_ray_is_no_stages_time(ray_cluster: None, tmp_path: Path) -> None:
    from nightrank.api.executors import LazyExecutor
    from nightrank.config.running import Cluster, Pool
    from tests.support.pools import stage

    executor = LazyExecutor(Cluster(pools={"general": Pool(workers=1)}))
    progress, store = Progress(stream := io.StringIO()), Store(str(tmp_path / "lake"))
    try:
        run_stage(stage("first", units=1), store, executor, progress)
        came = dict(progress.seconds)
        run_stage(stage("second", units=1), store, executor, progress)
    finally:
        executor.close()
    assert progress.seconds["ray_start"] == came["ray_start"] > came["first"]
    assert stream.getvalue().startswith("starting Ray  ")
    assert stream.getvalue().count("starting Ray") == 1


def test_a_start_that_fails_is_not_reported_as_done(tmp_path: Path) -> None:
    progress = Progress(stream := io.StringIO())
    with pytest.raises(NightrankError), progress.starting("Ray"):
        raise NightrankError("E_CLUSTER", "no Ray cluster")
    assert not stream.getvalue() and not progress.seconds


def test_json_shows_no_progress(
    tmp_path: Path, write_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    from nightrank.cli.run import run as run_verb

    tiny = Collection(tmp_path / "in", documents=30, queries=3)
    run_verb(write_config(tiny.config(tmp_path / "lake")), json=True)
    found = capsys.readouterr()
    assert found.err == "" and json.loads(found.out)["generation"] == 1
