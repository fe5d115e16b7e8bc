"""One conformance test over both executors: every task accounted for, exactly once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nightrank.config.running import Cluster, Pool
from nightrank.errors import NightrankError
from nightrank.runtime import bisection
from nightrank.runtime.executor import Executor, SerialExecutor, run_stage
from nightrank.runtime.progress import Progress
from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.storage.dataset import Dataset, Payload, Record
from nightrank.storage.reader import Reader
from nightrank.storage.store import Store
from tests.support.stages import SCHEMA, stage


@pytest.fixture(scope="module")
def ray_executor(ray_cluster: None) -> Iterator[Executor]:
    """One for all tests: each process that it starts takes two seconds of a core.

    Tests of units that kill their process take no other executor: the serial one would die too.
    """
    from nightrank.runtime.ray_executor import RayExecutor

    pools = {"general": Pool(workers=2), "model": Pool(workers=1)}
    executor = RayExecutor(Cluster(pools=pools, deadline_seconds=12.0))
    yield executor
    executor.close()


@pytest.fixture(params=["serial", pytest.param("ray", marks=pytest.mark.ray)])
def executor(request: pytest.FixtureRequest, ray_executor: Executor) -> Executor:
    return SerialExecutor() if request.param == "serial" else ray_executor


def lake(folder: Path) -> Store:
    """One for all tests, as an executor's processes keep its lake; a folder of it for each test."""
    return Store(str(folder.parent))


def squares(folder: Path) -> Dataset:
    return Dataset(lake(folder), f"{folder.name}/squares")


def run(made: Stage, executor: Executor, folder: Path) -> list[int]:
    store = lake(folder)
    manifest = run_stage(made, store, executor, Progress(quiet=True))
    read = Reader(store)
    return [read.table(ref)["value"][0].as_py() for ref in manifest.files("rows")]


SQUARES = [i * i for i in range(12)]


def test_every_task_yields_one_shard_in_task_order(executor: Executor, tmp_path: Path) -> None:
    assert run(stage(tmp_path, {}), executor, tmp_path) == SQUARES


def test_a_task_that_fails_once_is_tried_again(executor: Executor, tmp_path: Path) -> None:
    assert run(stage(tmp_path, {3: "raise once", 7: "raise once"}), executor, tmp_path) == SQUARES


def test_at_its_limit_a_stage_begins_nothing_more_and_keeps_what_was_begun(
    executor: Executor, tmp_path: Path
) -> None:
    store, made = lake(tmp_path), stage(tmp_path, {})

    def limit() -> str:
        return "it is late" if squares(tmp_path).records() else ""

    with pytest.raises(NightrankError, match="it is late") as caught:
        run_stage(made, store, executor, Progress(quiet=True), limit)
    assert caught.value.exit_code == 10
    before = squares(tmp_path).records()
    assert 0 < len(before) < 12
    assert run(made, executor, tmp_path) == SQUARES
    after = squares(tmp_path).records()
    assert {name: after[name] for name in before} == before


def test_a_task_that_always_fails_is_reported_and_the_others_finish(
    executor: Executor, tmp_path: Path
) -> None:
    with pytest.raises(NightrankError) as caught:
        run(stage(tmp_path, {3: "raise always"}), executor, tmp_path)
    assert caught.value.exit_code == 70 and "part-03" in str(caught.value)
    # Messages of unexpected errors may quote texts, and this line goes into logs.
    assert "RuntimeError" in str(caught.value) and "never works" not in str(caught.value)
    assert (tmp_path / "part-03").stat().st_size == 3
    done = squares(tmp_path).records()
    assert len(done) == 11 and "part-03" not in done


def test_the_same_stage_again_does_only_what_is_missing(executor: Executor, tmp_path: Path) -> None:
    with pytest.raises(NightrankError):
        run(stage(tmp_path, {3: "raise always"}), executor, tmp_path)
    before = squares(tmp_path).records()
    assert run(stage(tmp_path, {}), executor, tmp_path) == SQUARES
    after = squares(tmp_path).records()
    assert {name: after[name] for name in before} == before


def test_a_refused_input_is_not_tried_again(executor: Executor, tmp_path: Path) -> None:
    with pytest.raises(NightrankError) as caught:
        run(stage(tmp_path, {5: "refuse"}), executor, tmp_path)
    assert caught.value.exit_code == 4 and "fix it" in str(caught.value)
    assert (tmp_path / "part-05").stat().st_size == 1


def test_a_wrong_schema_is_never_committed(executor: Executor, tmp_path: Path) -> None:
    with pytest.raises(NightrankError, match="expected schema"):
        run(stage(tmp_path, {2: "wrong schema"}, count=3), executor, tmp_path)
    assert "part-02" not in squares(tmp_path).records()


def test_a_killed_worker_costs_its_unit_only(ray_executor: Executor, tmp_path: Path) -> None:
    assert run(stage(tmp_path, {2: "die once", 9: "die once"}), ray_executor, tmp_path) == SQUARES


def test_a_process_that_lost_its_device_is_given_nothing_more(
    ray_executor: Executor, tmp_path: Path
) -> None:
    assert run(stage(tmp_path, {0: "unfit once"}), ray_executor, tmp_path) == SQUARES


@pytest.mark.parametrize("times", [1, 3])
def test_a_worker_that_the_memory_monitor_kills_costs_its_unit_alone(
    ray_executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    import ray

    get, killed = ray.get, list[str]()

    def as_if_memory_had_run_out(reference: Any, **options: Any) -> Any:
        found = get(reference, **options)
        if isinstance(found, Record) and found.shard == "part-05" and len(killed) < times:
            killed.append(found.shard)
            raise ray.exceptions.OutOfMemoryError("Memory on the node was 15.3GB / 16.0GB")
        return found

    monkeypatch.setattr(ray, "get", as_if_memory_had_run_out)
    if times == 1:
        assert run(stage(tmp_path, {}), ray_executor, tmp_path) == SQUARES
        return
    with pytest.raises(NightrankError, match=r"out of memory.*part-05.*memory_bytes") as caught:
        run(stage(tmp_path, {}), ray_executor, tmp_path)
    assert caught.value.exit_code == 8


def test_a_unit_that_kills_every_worker_is_set_aside(
    ray_executor: Executor, tmp_path: Path
) -> None:
    with pytest.raises(NightrankError) as caught:
        run(stage(tmp_path, {4: "die always"}), ray_executor, tmp_path)
    assert caught.value.exit_code == 9 and "part-04" in str(caught.value)
    assert (tmp_path / "part-04").stat().st_size == 3
    assert len(squares(tmp_path).records()) == 11


class Total:
    """Adds numbers up; the negative ones kill whoever touches them."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self.folder = Path(config["folder"])

    def __call__(self, task: Task, read: Reader) -> Payload:
        numbers = np.array(task.args["numbers"])
        chosen = task.chosen(len(numbers))
        if (numbers[chosen] < 0).any():
            with open(self.folder / "deaths", "a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        row = {"value": [int(numbers[chosen].sum())], "worker": [os.getpid()]}
        return Payload({"rows": pa.table(row, schema=SCHEMA)}, inputs=len(numbers))


def totals(folder: Path, units: list[list[int]]) -> Stage:
    tasks = tuple(Task(f"part-{i:02d}", {"numbers": unit}) for i, unit in enumerate(units))
    worker = WorkerSpec(Total, {"folder": str(folder)})
    return Stage(
        "add",
        1,
        f"{folder.name}/totals",
        {},
        tasks,
        worker,
        {"rows": SCHEMA},
        pool="model",
        divisible=True,
    )


def test_inputs_that_kill_are_found_and_left_out_and_nothing_else_is(
    ray_executor: Executor, tmp_path: Path
) -> None:
    units = [[1] * 4, [1] * 4, [1] * 4]
    units[0][0] = units[1][3] = -1
    assert run(totals(tmp_path, units), ray_executor, tmp_path) == [3, 3, 4]
    # Three attempts each, then at most log2(4) + 1 processes for one input that kills.
    assert (tmp_path / "deaths").stat().st_size <= 2 * (3 + 2 + 1)


def test_a_unit_that_dies_of_every_input_is_given_up(
    ray_executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bisection, "MAX_ASIDE", 1)  # Eight would cost thirty processes.
    with pytest.raises(NightrankError) as caught:
        run(totals(tmp_path, [[-1] * 3, [1] * 2]), ray_executor, tmp_path)
    assert caught.value.exit_code == 9 and "part-00" in str(caught.value)
    assert list(Dataset(lake(tmp_path), f"{tmp_path.name}/totals").records()) == ["part-01"]


def test_a_stopped_worker_is_killed_at_its_deadline(ray_executor: Executor, tmp_path: Path) -> None:
    started = time.monotonic()
    assert run(stage(tmp_path, {6: "stop once"}), ray_executor, tmp_path) == SQUARES
    assert time.monotonic() - started < 90


def test_a_pool_that_no_node_can_hold_is_an_error_and_no_wait_without_end(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightrank.runtime import ray_executor
    from nightrank.runtime.ray_executor import RayExecutor

    monkeypatch.setattr(ray_executor, "START_SECONDS", 2.0)
    # The cluster has no GPU; where one is brought by an autoscaler it would come in time.
    starved = RayExecutor(Cluster(pools={"model": Pool(workers=2, gpus=1.0)}, deadline_seconds=2.0))
    recorded: list[tuple[int, int]] = []
    queue = starved._metrics.queue
    # An alert is on it: units wait, none runs, for as long as that is so.
    starved._metrics.queue = lambda *now: (recorded.append(now), queue(*now))[1]  # type: ignore[method-assign]
    try:
        with pytest.raises(NightrankError) as caught:
            run(replace(stage(tmp_path, {}), pool="model"), starved, tmp_path)
    finally:
        starved.close()
    assert caught.value.exit_code == 9
    assert "no worker for square" in str(caught.value) and "1 GPUs" in str(caught.value)
    assert (
        len(recorded) > 2 and set(recorded[:-1]) == {(len(SQUARES), 0)} and recorded[-1] == (0, 0)
    )


class Stillborn:
    """A worker process that dies before it is ready."""

    def __init__(self, *arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def node(self) -> str:
        return ""


def test_workers_that_die_as_they_start_are_told_and_end_the_run_in_time(
    ray_executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightrank.runtime import ray_pools, ray_stage_run
    from nightrank.runtime.ray_executor import RayExecutor

    recorded: list[str] = []
    monkeypatch.setattr(ray_stage_run, "emit", lambda event, **fields: recorded.append(event))
    monkeypatch.setattr(ray_pools, "_Actor", Stillborn)
    barren = RayExecutor(Cluster(pools={"general": Pool(workers=1)}, attempts=1))
    try:
        with pytest.raises(NightrankError) as caught:
            run(stage(tmp_path, {}), barren, tmp_path)
    finally:
        barren.close()
    assert caught.value.exit_code == 9 and "no worker for square" in str(caught.value)
    assert recorded == ["start_failed"]  # The second one is the error itself.


def test_tasks_of_one_affinity_stay_with_one_worker(ray_executor: Executor, tmp_path: Path) -> None:
    run(stage(tmp_path, {}, affinity=True), ray_executor, tmp_path)
    store = lake(tmp_path)
    records = squares(tmp_path).records()
    workers: dict[str, set[int]] = {}
    for i in range(12):
        table = Reader(store).table(records[f"part-{i:02d}"].files["rows"])
        workers.setdefault(f"group-{i % 3}", set()).add(table["worker"][0].as_py())
    # Work is stolen at the end rather than left waiting: most of a group stays together.
    assert sum(len(found) for found in workers.values()) <= 6
