"""The door to Ray Core: warm actor pools with bounded attempts, deadlines and exact accounting.

Ray's own retries are off (`max_restarts=0`, `max_task_retries=0`): unlimited retries would loop for
ever on a record that kills its worker. A lost actor is replaced and its task tried again here; a
task that fails its last attempt is reported while the others finish. A pool outlives its stage, so
that imports and models are paid for once per process.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.config_running import Cluster
from pipelines.errors import NightrankError
from pipelines.runtime.executor import FINAL_EXIT_CODES, Outcome, as_failure, never

# This one comes before Ray itself: it says how Ray is to behave.
from pipelines.runtime.ray_cluster import (
    POOL_LABEL,
    address_of,
    connect,
    first_line,
    has_faiss_gpu,
    has_labelled_pools,
    is_alive,
)
from pipelines.runtime.ray_metrics import RunMetrics, WorkerMetrics
from pipelines.runtime.stage import Pool, Stage, Task
from pipelines.runtime.unit import UnitRunner, UnitSpec
from pipelines.storage.dataset import Record
from pipelines.storage.store import StoreSpec

# isort: split
import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

POLL_SECONDS = 1.0


class _Actor:
    """A worker process; `run` serves one unit at a time."""

    def __init__(self, store: StoreSpec, threads: int, folder: str) -> None:
        self._runner = UnitRunner(store, threads, folder)
        self._metrics = WorkerMetrics()

    def run(self, spec: UnitSpec, task: Task, attempt: int) -> Record:
        """See `UnitRunner.run`."""
        record = self._runner.run(spec, task, attempt)
        self._metrics.count(spec.name, record, self._runner.loads)
        return record

    def node(self) -> str:
        """The node this process runs on."""
        return str(ray.get_runtime_context().get_node_id())


@dataclass
class _Slot:
    """One place in a pool: its actor, the node it runs on, and what it last held open.

    Attributes:
        node: a reference that is ready once the actor is.
        is_up: whether it was seen ready; only then is it given work, since one that waits for a
            node to come may wait for long, or for ever.
    """

    actor: Any
    node: Any
    affinity: str = ""
    is_up: bool = False


@dataclass
class _Running:
    slot: _Slot
    task: Task
    number: int
    attempt: int
    started: float = field(default_factory=time.monotonic)


class RayExecutor:
    """Runs stages on a Ray cluster: the one at `cluster.address`, or one started here."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._pools: dict[Pool, list[_Slot]] = {}
        self._store: StoreSpec | None = None
        self._started_here = not ray.is_initialized()
        if self._started_here:
            connect(cluster)
        self._metrics = RunMetrics()
        self._labelled = has_labelled_pools()
        available = ray.cluster_resources()
        self._cpus, self._gpus = int(available.get("CPU", 1)), float(available.get("GPU", 0))
        elsewhere = address_of(cluster) is not None
        cores = self._cpus if elsewhere else min(os.cpu_count() or 1, self._cpus)
        self._gpu_share: dict[Pool, float] = {
            "general": 0.0,
            "index": _gpus(cluster.index_gpus, self._gpus and has_faiss_gpu()),
            "model": _gpus(cluster.model_gpus, self._gpus),
        }
        self._sizes: dict[Pool, int] = {
            "general": cluster.workers or max(2, cores // 2),
            "index": self._fitting("index", cluster.workers or max(2, cores // 2)),
            "model": cluster.model_workers or self._fitting("model", cores),
        }
        self._threads = {
            pool: cluster.threads_per_worker or max(1, cores // size)
            for pool, size in self._sizes.items()
        }

    def _fitting(self, pool: Pool, otherwise: int) -> int:
        """As many workers as there are GPU shares, or `otherwise` without GPUs."""
        share = self._gpu_share[pool]
        return max(1, int(self._gpus / share)) if share else otherwise

    def gpus(self) -> float:
        """See `Executor.gpus`."""
        return self._gpus

    def run(
        self,
        stage: Stage,
        tasks: Sequence[tuple[Task, int]],
        store: StoreSpec,
        stop: Callable[[], bool] = never,
    ) -> Iterator[Outcome]:
        """See `Executor.run`."""
        self._store = store
        queue = deque(sorted(((t, n, 1) for t, n in tasks), key=lambda item: item[0].affinity))
        spec = ray.put(UnitSpec.of(stage))
        # Without a GPU of their own the index stages need no processes of their own either.
        pool: Pool = stage.pool
        if pool == "index" and not self._gpu_share["index"]:
            pool = "general"
        slots = self._pool(pool, len(queue))
        idle = [slot for slot in slots if slot.is_up]
        starting = {slot.node: slot for slot in slots if not slot.is_up}
        lost_starts, moved = 0, time.monotonic()
        self._metrics.start(stage.name, {name: len(slots) for name, slots in self._pools.items()})
        running: dict[Any, _Running] = {}
        finished: list[float] = []
        try:
            while queue or running:
                if queue and stop():
                    queue.clear()
                while queue and idle:
                    slot = idle.pop()
                    task, number, attempt = _take(queue, slot, running)
                    slot.affinity = task.affinity
                    reference = slot.actor.run.remote(spec, task, number)
                    running[reference] = _Running(slot, task, number, attempt)
                self._metrics.queue(len(queue), len(running))
                awaited = [*running, *starting]
                ready, _ = ray.wait(awaited, num_returns=1, timeout=POLL_SECONDS)
                if ready or running:
                    moved = time.monotonic()
                elif time.monotonic() - moved > self._cluster.deadline_seconds:
                    raise self._nobody_comes(stage, pool, "none has started")
                for reference in ready:
                    if reference in starting:
                        slot = starting.pop(reference)
                        try:
                            ray.get(reference)
                            slot.is_up = True
                            idle.append(slot)
                        except RayError as error:
                            lost_starts += 1
                            if lost_starts > self._cluster.attempts * len(slots):
                                raise self._nobody_comes(stage, pool, first_line(error)) from error
                            self._replace(pool, slot, starting)
                        continue
                    unit = running.pop(reference)
                    try:
                        record = ray.get(reference)
                        finished.append(time.monotonic() - unit.started)
                        idle.append(unit.slot)
                        yield Outcome(unit.task, record)
                    except RayActorError as error:
                        self._replace(pool, unit.slot, starting)
                        lost = f"worker process died: {first_line(error)}"
                        where, do = (
                            f"{stage.name}, {unit.task.shard}",
                            "look at memory and Ray logs",
                        )
                        failure = NightrankError("E_CLUSTER", lost, where, do)
                        yield from self._again(unit, failure, queue, is_alive(unit.slot.node))
                    except RayTaskError as error:
                        idle.append(unit.slot)
                        cause = error.cause if isinstance(error.cause, Exception) else error
                        failure = as_failure(cause, stage.name, unit.task)
                        yield from self._again(unit, failure, queue)
                limit = max(
                    self._cluster.deadline_seconds,
                    10 * statistics.median(finished) if finished else 0.0,
                )
                for reference, unit in list(running.items()):
                    if time.monotonic() - unit.started > limit:
                        running.pop(reference)
                        self._replace(pool, unit.slot, starting)
                        what, where = (
                            f"no end after {limit:.0f} s",
                            f"{stage.name}, {unit.task.shard}",
                        )
                        do = "raise cluster.deadline_seconds if units are that long"
                        failure = NightrankError("E_DEADLINE", what, where, do)
                        yield from self._again(unit, failure, queue)
        finally:
            self._metrics.queue(0, 0)
            # Cut short: units in flight belong to nobody, so their processes go too.
            for unit in running.values():
                ray.kill(unit.slot.actor)
                self._pools[pool].remove(unit.slot)

    def _again(
        self, unit: _Running, failure: NightrankError, queue: deque[Any], counts: bool = True
    ) -> Iterator[Outcome]:
        """Queues the task again, or reports its failure; a lost node is not the task's fault."""
        if failure.exit_code in FINAL_EXIT_CODES or (
            counts and unit.attempt >= self._cluster.attempts
        ):
            self._metrics.failed()
            yield Outcome(unit.task, None, failure)
        else:
            self._metrics.retried()
            queue.append((unit.task, unit.number, unit.attempt + counts))

    def _pool(self, pool: Pool, wanted: int) -> list[_Slot]:
        """All slots of a pool, made up to its size, never more than there are tasks.

        Other pools stay warm while there is room for all; where CPUs or GPUs would not suffice they
        are closed first, since an actor that waits for them would wait for ever.
        """
        slots = self._pools.setdefault(pool, [])
        size = max(len(slots), min(self._sizes[pool], wanted))
        held = {name: len(others) for name, others in self._pools.items()} | {pool: size}
        gpus = sum(count * self._gpu_share[name] for name, count in held.items())
        if sum(held.values()) > self._cpus or gpus > self._gpus:
            for name in [name for name in self._pools if name != pool]:
                self._close_pool(name)
        while len(slots) < size:
            slots.append(self._slot(pool))
        return list(slots)

    def _slot(self, pool: Pool) -> _Slot:
        options: dict[str, Any] = {"num_cpus": 1, "max_restarts": 0, "max_task_retries": 0}
        options["num_gpus"] = self._gpu_share[pool]
        if self._labelled:
            options["label_selector"] = {POOL_LABEL: pool}
        made = ray.remote(_Actor).options(**options)
        actor = made.remote(self._store, self._threads[pool], os.getcwd())
        return _Slot(actor, actor.node.remote())

    def _close_pool(self, pool: Pool) -> None:
        for slot in self._pools.pop(pool):
            ray.kill(slot.actor)

    def _replace(self, pool: Pool, slot: _Slot, starting: dict[Any, _Slot]) -> None:
        ray.kill(slot.actor)
        self._pools[pool].remove(slot)
        fresh = self._slot(pool)
        self._pools[pool].append(fresh)
        starting[fresh.node] = fresh

    def _nobody_comes(self, stage: Stage, pool: Pool, why: str) -> NightrankError:
        what = f"no worker for {stage.name}: {why}"
        needs = f"1 CPU and {self._gpu_share[pool]:g} GPUs"
        where = f"pool {pool}, {needs} each" + (f", nodes labelled {pool}" * self._labelled)
        return NightrankError(
            "E_CLUSTER", what, where, "look at the cluster's nodes and Ray's logs"
        )

    def close(self) -> None:
        """Kills all workers, and the cluster where it was started here."""
        if not ray.is_initialized():
            return
        for pool in list(self._pools):
            self._close_pool(pool)
        if self._started_here:
            ray.shutdown()


def _gpus(wanted: float | None, available: float | bool) -> float:
    """GPUs per worker: as configured, else one where there is any."""
    return wanted if wanted is not None else float(bool(available))


def _take(queue: deque[Any], slot: _Slot, running: dict[Any, _Running]) -> Any:
    """The next item for a slot: its own affinity first, then one that no other slot holds."""
    if not queue[0][0].affinity:
        return queue.popleft()
    held = {unit.slot.affinity for unit in running.values()}
    best = min(
        range(len(queue)),
        key=lambda i: (queue[i][0].affinity != slot.affinity, queue[i][0].affinity in held, i),
    )
    item = queue[best]
    del queue[best]
    return item
