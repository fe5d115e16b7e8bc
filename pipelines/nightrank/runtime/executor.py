"""The executor protocol and its in-process form; `run_stage` ties a stage to its dataset."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from nightrank.errors import NightrankError, unexpected
from nightrank.runtime.events import emit
from nightrank.runtime.progress import Progress
from nightrank.runtime.stage import Stage, Task
from nightrank.runtime.unit import MAX_UNITS, UnitRunner, UnitSpec
from nightrank.storage.dataset import Dataset, Manifest, Record
from nightrank.storage.store import Store, StoreSpec

# Errors that another attempt cannot mend: config, environment, input, integrity.
FINAL_EXIT_CODES = (2, 3, 4, 7)
# Given the name of what starts; what is done within counts as its start.
Starting = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Outcome:
    """One task's end: its record, or the error after its last attempt."""

    task: Task[Any]
    record: Record | None
    error: NightrankError | None = None


def never() -> bool:
    """The `stop` of a run without a budget."""
    return False


class Executor(Protocol):
    """Runs tasks and accounts for every one of them exactly once."""

    def start(self, stage: Stage, units: int, store: StoreSpec, starting: Starting) -> None:
        """Brings up what the first stage runs on, within `starting`; later does nothing."""
        ...

    def run(
        self,
        stage: Stage,
        tasks: Sequence[tuple[Task[Any], int]],
        store: StoreSpec,
        stop: Callable[[], bool] = never,
    ) -> Iterator[Outcome]:
        """Yields one outcome per (task, attempt number), in any order.

        Once `stop()` is true no further task begins; those that have begun are finished.
        """
        ...

    def gpus(self) -> float:
        """GPUs that this executor's workers have between them."""
        ...

    def report_eta(self, finish: float, deadline: float | None) -> None:
        """Tells whoever watches when the run will and has to end, in seconds since the epoch."""
        ...

    def close(self) -> None:
        """Frees workers; nothing that was not committed survives."""
        ...


class SerialExecutor:
    """Everything in this process, in task order; for laptops, tests and debugging."""

    def __init__(self, threads: int = 0, attempts: int = 3) -> None:
        self._threads = threads or os.cpu_count() or 1
        self._attempts = attempts
        self._runner: UnitRunner | None = None

    def start(self, stage: Stage, units: int, store: StoreSpec, starting: Starting) -> None:
        """Nothing is to be brought up."""

    def run(
        self,
        stage: Stage,
        tasks: Sequence[tuple[Task[Any], int]],
        store: StoreSpec,
        stop: Callable[[], bool] = never,
    ) -> Iterator[Outcome]:
        """See `Executor.run`."""
        runner = self._runner = self._runner or UnitRunner(store, self._threads, os.getcwd())
        spec = UnitSpec.of(stage)
        for task, number in tasks:
            if stop():
                return
            for attempt in range(1, self._attempts + 1):
                try:
                    yield Outcome(task, runner.run(spec, task, number))
                    break
                except Exception as error:
                    failure = as_failure(error, stage.name, task)
                    if failure.exit_code in FINAL_EXIT_CODES or attempt == self._attempts:
                        yield Outcome(task, None, failure)
                        break
                    emit(
                        "unit_retried",
                        stage=stage.name,
                        unit=task.shard,
                        attempt=attempt,
                        node=platform.node(),
                        error=failure,
                    )

    def gpus(self) -> float:
        """None that are counted."""
        return 0.0

    def report_eta(self, finish: float, deadline: float | None) -> None:
        """Nobody watches."""

    def close(self) -> None:
        """See `Executor.close`."""
        self._runner = None


def as_failure(error: Exception, stage: str, task: Task[Any]) -> NightrankError:
    """An expected error as it is; anything else as E_BUG with its place, its cause kept."""
    if isinstance(error, NightrankError):
        return error
    if isinstance(error, MemoryError):
        do = "give the workers more memory, or start fewer of them (cluster.pools.*.workers)"
        return NightrankError("E_OOM", "out of memory", f"{stage}, {task.shard}", do)
    # Its message may quote a text, and this line goes into logs; the cause keeps it.
    what = unexpected(error)
    failure = NightrankError("E_BUG", what, f"{stage}, {task.shard}", "please report this")
    failure.__cause__ = error
    return failure


def run_stage(
    stage: Stage,
    store: Store,
    executor: Executor,
    progress: Progress,
    limit: Callable[[], str] = str,
    is_new: bool = False,
) -> Manifest:
    """Brings a stage's dataset to completion and returns its manifest.

    A stage whose manifest exists is done; a task whose record exists is done; the rest is work.

    Args:
        stage: what is to be done.
        store: the lake.
        executor: where it is done.
        progress: told of every unit.
        limit: why no further unit may begin; empty while one may.
        is_new: whether it is known that the manifest does not exist.

    Raises:
        NightrankError: the first failure, after every other task had its chance; E_BUDGET where the
            limit came first; E_USAGE where a plan has more than 50,000 units.
    """
    dataset = Dataset(store, stage.dataset)
    if not is_new and (manifest := dataset.manifest()):
        progress.skipped(stage.name, manifest)
        return manifest
    if len(stage.tasks) > MAX_UNITS:
        what = f"{len(stage.tasks)} units planned, at most {MAX_UNITS} are sensible"
        do = "raise layout.*_shard_rows, rerank.unit_tokens or search.memory_bytes"
        raise NightrankError("E_USAGE", what, stage.name, do)
    done = dataset.records()
    numbers = dataset.next_attempts() if len(done) < len(stage.tasks) else {}
    todo = [(t, numbers.get(t.shard, 0)) for t in stage.tasks if t.shard not in done]
    if todo:
        executor.start(stage, len(todo), store.spec, progress.starting)
    started = time.monotonic()
    progress.start(stage.name, len(stage.tasks), len(done))
    failures = []
    for outcome in executor.run(stage, todo, store.spec, lambda: bool(limit())):
        if outcome.record is not None:
            done[outcome.record.shard] = outcome.record
            progress.advance(outcome.record)
            executor.report_eta(progress.eta.finish(), progress.eta.deadline())
        elif outcome.error is not None:
            failures.append(outcome.error)
            progress.unit_failed(stage.name, outcome.task.shard, outcome.error)
            if outcome.error.exit_code in FINAL_EXIT_CODES:
                break
    if failures:
        progress.failed(stage.name)
        first = failures[0]
        more = f", and {len(failures) - 1} more units" if len(failures) > 1 else ""
        where = f"{first.where or stage.name}{more}"
        do = first.do or "run the same command again to retry only what is missing"
        raise NightrankError(first.code, first.what, where, do) from first
    missing = [t.shard for t in stage.tasks if t.shard not in done]
    if missing and (reason := limit()):
        progress.failed(stage.name)
        what = f"{reason}: {len(missing)} of {len(stage.tasks)} units of {stage.name} are left"
        raise NightrankError("E_BUDGET", what, "", "the same command continues from here")
    if missing:
        what = f"{len(missing)} of {len(stage.tasks)} units were never accounted for"
        raise NightrankError("E_ACCOUNTING", what, f"{stage.name}, e.g. {missing[0]}")
    records = [done[task.shard] for task in stage.tasks]
    manifest = dataset.finish(stage.name, stage.version, stage.identity, records)
    progress.finish(stage.name, manifest, time.monotonic() - started)
    return manifest
