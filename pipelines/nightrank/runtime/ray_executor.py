"""The door to Ray Core's calls: bounded attempts, deadlines and exact accounting of units.

Ray's own retries are off: unlimited retries would loop for ever on a record that kills its worker.
A lost worker is replaced and its unit tried again here; a unit that keeps killing workers is
searched for the inputs that do it, which are then set aside. A unit that fails its last attempt is
reported while the others finish.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nightrank.config.running import Cluster
from nightrank.errors import NightrankError, UnfitProcessError
from nightrank.runtime.bisection import Bisection
from nightrank.runtime.events import emit
from nightrank.runtime.executor import FINAL_EXIT_CODES, Outcome, Starting, as_failure, never

# This one comes before Ray itself: it says how Ray is to behave.
from nightrank.runtime.ray_cluster import connect, first_line, node_of
from nightrank.runtime.ray_metrics import RunMetrics
from nightrank.runtime.ray_pools import Pools, Slot
from nightrank.runtime.stage import Stage, Task
from nightrank.runtime.unit import UnitSpec
from nightrank.runtime.unit_queue import UnitQueue
from nightrank.storage.dataset import Record
from nightrank.storage.store import StoreSpec

# isort: split
import ray
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayError, RayTaskError

POLL_SECONDS = 1.0
# A worker that takes longer to start waits for its node to come, which is the stage's time.
START_SECONDS = 60.0
# Preempted nodes cost a unit no attempt, but one that takes its node down each time must end too.
MOST_NODES_LOST = 10


class RayExecutor:
    """Runs stages on a Ray cluster: the one at `cluster.address`, or one started here."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._started_here = not ray.is_initialized()
        if self._started_here:
            connect(cluster)
        self._metrics = RunMetrics()
        self._pools = Pools(cluster)
        self._has_started = False

    def start(self, stage: Stage, units: int, store: StoreSpec, starting: Starting) -> None:
        """See `Executor.start`; waits for the first worker, which has its imports to do."""
        if self._has_started:
            return
        self._has_started = True
        with starting("Ray"):
            slots = self._pools.fill(self._pools.name_of(stage), units, store)
            # Whether it has come up or died is for `run` to see.
            ray.wait([slot.node for slot in slots], num_returns=1, timeout=START_SECONDS)

    def gpus(self) -> float:
        """See `Executor.gpus`; what the cluster has now."""
        return float(ray.cluster_resources().get("GPU", 0))

    def report_eta(self, finish: float, deadline: float | None) -> None:
        """See `Executor.report_eta`."""
        self._metrics.report_eta(finish, deadline)

    def run(
        self,
        stage: Stage,
        tasks: Sequence[tuple[Task, int]],
        store: StoreSpec,
        stop: Callable[[], bool] = never,
    ) -> Iterator[Outcome]:
        """See `Executor.run`."""
        units = [_Unit(task, number) for task, number in tasks]
        yield from _Run(stage, units, store, self._cluster, self._pools, self._metrics).go(stop)

    def close(self) -> None:
        """Kills all workers, and the cluster where it was started here."""
        if not ray.is_initialized():
            return
        self._pools.close()
        if self._started_here:
            ray.shutdown()


@dataclass(eq=False)
class _Unit:
    """A task on its way.

    Attributes:
        number: the attempt's number in the lake.
        attempt: which try this is, those that a lost node ended not counted.
        lost: how many of those there were.
        search: for the inputs that kill its workers.
    """

    task: Task
    number: int
    attempt: int = 1
    lost: int = 0
    search: Bisection | None = None

    @property
    def place(self) -> str:
        aside = f", without {len(self.task.aside)} inputs" if self.task.aside else ""
        return f"{self.task.shard}{aside}"


@dataclass
class _Running:
    slot: Slot
    unit: _Unit
    started: float = field(default_factory=time.monotonic)


class _Run:
    """One stage's units on one pool."""

    def __init__(
        self,
        stage: Stage,
        units: list[_Unit],
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
        self._lost_starts, self._most_lost = 0, cluster.attempts * len(slots)
        self._moved = time.monotonic()
        self._running: dict[Any, _Running] = {}
        self._seconds: list[float] = []
        metrics.start(stage.name, pools.sizes)

    def go(self, stop: Callable[[], bool]) -> Iterator[Outcome]:
        """One outcome per unit."""
        try:
            while self._queue or self._running:
                if self._queue and stop():
                    self._queue.clear()
                self._hand_out()
                self._metrics.queue(len(self._queue), len(self._running))
                for reference in self._ready():
                    if reference in self._starting:
                        self._has_started(reference)
                    else:
                        yield from self._has_ended(reference)
                yield from self._overdue()
            self._hand_out()
        finally:
            self._metrics.queue(0, 0)
            # Cut short: units in flight belong to nobody, so their processes go too.
            for unit in self._running.values():
                self._pools.drop(self._pool, unit.slot)

    def _hand_out(self) -> None:
        """Gives idle workers units; without units those go that the pool does not keep."""
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
        """What has started or ended.

        Raises:
            NightrankError: E_CLUSTER where no worker has come for as long as a unit may take.
        """
        awaited = [*self._running, *self._starting]
        ready: list[Any] = ray.wait(awaited, num_returns=1, timeout=POLL_SECONDS)[0]
        if ready or self._running:
            self._moved = time.monotonic()
        elif time.monotonic() - self._moved > self._cluster.deadline_seconds:
            raise self._nobody_comes("none has started")
        return ready

    def _has_started(self, reference: Any) -> None:
        slot = self._starting.pop(reference)
        try:
            ray.get(reference)
        except RayError as error:
            self._lost_starts += 1
            if self._lost_starts > self._most_lost:
                raise self._nobody_comes(first_line(error)) from error
            # Held against no unit, nor its node: one that is lost takes starts on it along.
            failure = self._death(error, "starting")
            emit("start_failed", stage=self._stage.name, error=failure)
            self._replace(slot)
        else:
            slot.is_up = True
            self._idle.append(slot)

    def _has_ended(self, reference: Any) -> Iterator[Outcome]:
        running = self._running.pop(reference)
        unit, slot = running.unit, running.slot
        try:
            result: Record | int = ray.get(reference)
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            failure = as_failure(cause, self._stage.name, unit.task)
            if isinstance(failure, UnfitProcessError):
                self._replace(slot)
                yield from self._killed(unit, failure)
            else:
                self._idle.append(slot)
                yield from self._again(unit, failure)
        except RayError as error:
            failure = self._death(error, unit.place)
            name, lives = node_of(slot.node)
            # A lost node's worker until the health check fails: that a process died on a living
            # node Ray learns within the second it waits (timeout_ms_task_wait_for_death_info).
            lives = lives and not isinstance(error, ActorUnavailableError)
            self._tell("worker_lost" if lives else "node_lost", unit, name, failure)
            self._replace(slot)
            yield from self._killed(unit, failure) if lives else self._again(unit, failure, False)
        else:
            self._idle.append(slot)
            if isinstance(result, Record):
                self._seconds.append(time.monotonic() - running.started)
                yield Outcome(unit.task, result)
            elif unit.search:
                unit.search.survived(result)
                what = f"worker processes died, but {unit.search.hopeless}"
                do = "look at memory and Ray's logs"
                yield from self._go_on(unit, self._failure("E_CLUSTER", what, unit.place, do))

    def _overdue(self) -> Iterator[Outcome]:
        """Ends what takes too long; a process that hangs or is stopped never says so."""
        least, now = self._cluster.deadline_seconds, time.monotonic()
        late = [item for item in self._running.items() if now - item[1].started > least]
        slow = 10 * statistics.median(self._seconds) if late and self._seconds else 0.0
        limit = max(least, slow)
        for reference, running in late:
            if now - running.started > limit:
                del self._running[reference]
                self._replace(running.slot)
                do = "raise cluster.deadline_seconds if units are that long"
                what = f"no end after {limit:.0f} s"
                failure = self._failure("E_DEADLINE", what, running.unit.place, do)
                yield from self._again(running.unit, failure)

    def _killed(self, unit: _Unit, failure: NightrankError) -> Iterator[Outcome]:
        """Its worker died while the node lived: after the last attempt the unit is searched."""
        if unit.search:
            unit.search.died()
            if len(unit.search.aside) > len(unit.task.aside):
                unit.task = replace(unit.task, aside=unit.search.aside)
                self._tell("unit_set_aside", unit, "", failure)
            yield from self._go_on(unit, failure)
        elif unit.attempt >= self._cluster.attempts and self._stage.divisible:
            unit.search = Bisection()
            yield from self._go_on(unit, failure)
        else:
            yield from self._again(unit, failure)

    def _go_on(self, unit: _Unit, failure: NightrankError) -> Iterator[Outcome]:
        """The search's next step, or its end without a find."""
        if unit.search and unit.search.hopeless:
            yield self._given_up(unit, failure)
        else:
            self._metrics.retried()
            self._queue.appendleft(unit)

    def _again(
        self, unit: _Unit, failure: NightrankError, counts: bool = True
    ) -> Iterator[Outcome]:
        """Queues the unit again, or reports its failure; a lost node is not the unit's fault."""
        unit.lost += not counts
        counts = counts or unit.lost > MOST_NODES_LOST
        last = counts and unit.attempt >= self._cluster.attempts
        if last or failure.exit_code in FINAL_EXIT_CODES:
            yield self._given_up(unit, failure)
        else:
            self._metrics.retried()
            self._tell("unit_retried", unit, "", failure)
            unit.attempt += counts
            self._queue.append(unit)

    def _given_up(self, unit: _Unit, failure: NightrankError) -> Outcome:
        self._metrics.failed()
        return Outcome(unit.task, None, failure)

    def _tell(self, event: str, unit: _Unit, node: str, error: NightrankError) -> None:
        stage, attempt = self._stage.name, unit.attempt
        emit(event, stage=stage, unit=unit.task.shard, attempt=attempt, node=node, error=error)

    def _replace(self, slot: Slot) -> None:
        fresh = self._pools.replace(self._pool, slot, self._store)
        self._starting[fresh.node] = fresh

    def _death(self, error: RayError, place: str) -> NightrankError:
        if isinstance(error, OutOfMemoryError):  # Ray's memory monitor, before the kernel's.
            do = "give its pool more memory_bytes, or fewer workers a node"
            what = "worker process killed: its node ran out of memory"
            return self._failure("E_OOM", what, place, do)
        what = f"worker process died: {first_line(error)}"
        return self._failure("E_CLUSTER", what, place, "look at memory and Ray's logs")

    def _failure(self, code: str, what: str, place: str, do: str) -> NightrankError:
        return NightrankError(code, what, f"{self._stage.name}, {place}", do)

    def _nobody_comes(self, why: str) -> NightrankError:
        what = f"no worker for {self._stage.name}: {why}"
        where = f"pool {self._pool}, {self._pools.shape(self._pool)}"
        do = "look at the cluster's nodes, cluster.pools and Ray's logs"
        return NightrankError("E_CLUSTER", what, where, do)
