"""One stage's units on one pool of Ray workers: bounded attempts, deadlines, exact accounting.

Ray's own retries are off: unlimited retries would loop forever on a record that kills its worker.
A lost worker is replaced and its unit tried again here; a unit that keeps killing workers is
searched for the inputs that do it, which are then set aside. A unit that fails its last attempt is
reported while the others finish.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from nightrank.config.running import Cluster
from nightrank.errors import NightrankError, UnfitProcessError
from nightrank.runtime import ray_failures as failures
from nightrank.runtime.bisection import Bisection
from nightrank.runtime.events import emit
from nightrank.runtime.executor import FINAL_EXIT_CODES, Outcome, as_failure

# Before Ray itself: it sets the environment that Ray reads at import.
from nightrank.runtime.ray_cluster import first_line, node_of
from nightrank.runtime.ray_metrics import RunMetrics
from nightrank.runtime.ray_pools import Pools, Slot
from nightrank.runtime.stage import Stage, Task
from nightrank.runtime.unit import UnitSpec
from nightrank.runtime.unit_queue import UnitQueue
from nightrank.storage.dataset import Record
from nightrank.storage.store import StoreSpec

# isort: split
import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

POLL_SECONDS = 1.0
# Preempted nodes cost a unit no attempt, but a unit that takes its node down each time must end.
MAX_NODES_LOST = 10


@dataclass(eq=False)
class Unit:
    """A task and its attempts.

    Attributes:
        number: the attempt's number in the lake.
        attempt: which attempt this is, from 1; those that a lost node ended do not count.
        nodes_lost: how many attempts a lost node ended.
        search: for the inputs that kill its workers; None before there is one.
    """

    task: Task[Any]
    number: int
    attempt: int = 1
    nodes_lost: int = 0
    search: Bisection | None = None

    @property
    def place(self) -> str:
        """The unit in an error: its shard, and how many inputs are set aside."""
        aside = f", without {len(self.task.aside)} inputs" if self.task.aside else ""
        return f"{self.task.shard}{aside}"


@dataclass
class _Running:
    slot: Slot
    unit: Unit
    started: float = field(default_factory=time.monotonic)


class StageRun:
    """One stage's units on one pool.

    Args:
        stage: whose units they are.
        units: all that are to be done.
        store: the lake.
        cluster: the limits: attempts and deadline of a unit.
        pools: all pools of the run.
        metrics: the driver's.
    """

    def __init__(
        self,
        stage: Stage,
        units: list[Unit],
        store: StoreSpec,
        cluster: Cluster,
        pools: Pools,
        metrics: RunMetrics,
    ) -> None:
        self._stage, self._store, self._cluster = stage, store, cluster
        self._pools, self._metrics = pools, metrics
        self._spec = ray.put(UnitSpec.of(stage))
        self._queue = UnitQueue(units, lambda unit: unit.task.affinity)
        self._pool = pools.name_of(stage)
        slots = pools.fill(self._pool, len(units), store)
        self._idle = [slot for slot in slots if slot.is_up]
        self._starting = {slot.node: slot for slot in slots if not slot.is_up}
        self._lost_starts, self._max_lost_starts = 0, cluster.attempts * len(slots)
        self._last_progress = time.monotonic()
        self._running: dict[Any, _Running] = {}
        self._seconds: list[float] = []
        metrics.start(stage.name, pools.sizes)

    def outcomes(self, stop: Callable[[], bool]) -> Iterator[Outcome]:
        """One outcome per unit, in any order.

        Args:
            stop: once true, no further unit begins.

        Raises:
            NightrankError: E_CLUSTER where no worker can be started.
        """
        try:
            while self._queue or self._running:
                if self._queue and stop():
                    self._queue.clear()
                self._hand_out()
                self._metrics.queue(len(self._queue), len(self._running))
                for reference in self._ready():
                    if reference in self._starting:
                        self._worker_started(reference)
                    else:
                        yield from self._unit_ended(reference)
                yield from self._end_overdue()
            self._hand_out()
        finally:
            self._metrics.queue(0, 0)
            # After an early end nobody waits for the units in flight, so their processes end too.
            for running in self._running.values():
                self._pools.drop(self._pool, running.slot)

    def _hand_out(self) -> None:
        """Gives units to idle workers; without units, ends the workers that the pool can spare."""
        while self._queue and self._idle:
            slot = self._idle.pop()
            held = {running.slot.affinity for running in self._running.values()}
            unit = self._queue.take(slot.affinity, held)
            slot.affinity, begun = unit.task.affinity, slot.begin(self._spec, unit.task.shared)
            task = replace(unit.task, shared=None)
            if unit.search and unit.search.part:
                task = replace(task, only=unit.search.part)
                reference = slot.actor.probe.remote(begun, task)
            else:
                reference = slot.actor.run.remote(begun, task, unit.number)
            self._running[reference] = _Running(slot, unit)
        if not self._queue:
            self._idle = [slot for slot in self._idle if not self._pools.spare(self._pool, slot)]
            for node, slot in list(self._starting.items()):
                if self._pools.spare(self._pool, slot):
                    del self._starting[node]

    def _ready(self) -> list[Any]:
        """References of the workers that have started and the units that have ended.

        Raises:
            NightrankError: E_CLUSTER where no worker has started within a unit's deadline.
        """
        awaited = [*self._running, *self._starting]
        ready: list[Any] = ray.wait(awaited, num_returns=1, timeout=POLL_SECONDS)[0]
        if ready or self._running:
            self._last_progress = time.monotonic()
        elif time.monotonic() - self._last_progress > self._cluster.deadline_seconds:
            raise self._no_worker("none has started")
        return ready

    def _worker_started(self, reference: Any) -> None:
        slot = self._starting.pop(reference)
        try:
            ray.get(reference)
        except RayError as error:
            self._lost_starts += 1
            if self._lost_starts > self._max_lost_starts:
                raise self._no_worker(first_line(error)) from error
            # Counts against no unit, and against no node: a lost node ends the starts on it too.
            failure = failures.worker_death(error, f"{self._stage.name}, starting")
            emit("start_failed", stage=self._stage.name, error=failure)
            self._replace(slot)
        else:
            slot.is_up = True
            self._idle.append(slot)

    def _unit_ended(self, reference: Any) -> Iterator[Outcome]:
        running = self._running.pop(reference)
        unit, slot = running.unit, running.slot
        try:
            result: Record | int = ray.get(reference)
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            failure = as_failure(cause, self._stage.name, unit.task)
            if isinstance(failure, UnfitProcessError):
                self._replace(slot)
                yield from self._worker_died(unit, failure)
            else:
                self._idle.append(slot)
                yield from self._retry(unit, failure)
        except RayError as error:
            failure = failures.worker_death(error, self._where(unit))
            name, is_alive = node_of(slot.node)
            # `ActorUnavailableError` comes from a lost node until its health check fails: that a
            # process died on a live node Ray learns within the second that it waits
            # (timeout_ms_task_wait_for_death_info).
            is_alive = is_alive and not isinstance(error, ActorUnavailableError)
            self._emit("worker_lost" if is_alive else "node_lost", unit, failure, name)
            self._replace(slot)
            if is_alive:
                yield from self._worker_died(unit, failure)
            else:
                yield from self._retry(unit, failure, counts=False)
        else:
            self._idle.append(slot)
            if isinstance(result, Record):
                self._seconds.append(time.monotonic() - running.started)
                yield Outcome(unit.task, result)
            elif unit.search:
                unit.search.survived(result)
                failure = failures.no_input_to_blame(unit.search.gave_up, self._where(unit))
                yield from self._continue_search(unit, failure)

    def _end_overdue(self) -> Iterator[Outcome]:
        """Ends units that take too long: a process that hangs or is stopped never reports it."""
        deadline, now = self._cluster.deadline_seconds, time.monotonic()
        late = [item for item in self._running.items() if now - item[1].started > deadline]
        usual = 10 * statistics.median(self._seconds) if late and self._seconds else 0.0
        limit = max(deadline, usual)
        for reference, running in late:
            if now - running.started > limit:
                del self._running[reference]
                self._replace(running.slot)
                failure = failures.overdue(limit, self._where(running.unit))
                yield from self._retry(running.unit, failure)

    def _worker_died(self, unit: Unit, failure: NightrankError) -> Iterator[Outcome]:
        """The unit's worker died on a live node: after the last attempt the unit is searched."""
        if unit.search:
            unit.search.died()
            if len(unit.search.aside) > len(unit.task.aside):
                unit.task = replace(unit.task, aside=unit.search.aside)
                self._emit("unit_set_aside", unit, failure)
            yield from self._continue_search(unit, failure)
        elif unit.attempt >= self._cluster.attempts and self._stage.divisible:
            unit.search = Bisection()
            yield from self._continue_search(unit, failure)
        else:
            yield from self._retry(unit, failure)

    def _continue_search(self, unit: Unit, failure: NightrankError) -> Iterator[Outcome]:
        """Queues the search's next part, or reports the failure where the search gave up."""
        if unit.search and unit.search.gave_up:
            yield self._failed(unit, failure)
        else:
            self._metrics.retried()
            self._queue.appendleft(unit)

    def _retry(self, unit: Unit, failure: NightrankError, counts: bool = True) -> Iterator[Outcome]:
        """Queues the unit again, or reports its failure.

        Args:
            unit: whose attempt ended.
            failure: why.
            counts: whether it is one of the unit's attempts; False for a lost node.
        """
        unit.nodes_lost += not counts
        counts = counts or unit.nodes_lost > MAX_NODES_LOST
        last = counts and unit.attempt >= self._cluster.attempts
        if last or failure.exit_code in FINAL_EXIT_CODES:
            yield self._failed(unit, failure)
        else:
            self._metrics.retried()
            self._emit("unit_retried", unit, failure)
            unit.attempt += counts
            self._queue.append(unit)

    def _failed(self, unit: Unit, failure: NightrankError) -> Outcome:
        self._metrics.failed()
        return Outcome(unit.task, None, failure)

    def _emit(self, event: str, unit: Unit, error: NightrankError, node: str = "") -> None:
        stage, attempt = self._stage.name, unit.attempt
        emit(event, stage=stage, unit=unit.task.shard, attempt=attempt, node=node, error=error)

    def _replace(self, slot: Slot) -> None:
        replacement = self._pools.replace(self._pool, slot, self._store)
        self._starting[replacement.node] = replacement

    def _where(self, unit: Unit) -> str:
        return f"{self._stage.name}, {unit.place}"

    def _no_worker(self, reason: str) -> NightrankError:
        shape = self._pools.shape(self._pool)
        return failures.no_worker(self._stage.name, self._pool, shape, reason)
