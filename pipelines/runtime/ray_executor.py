"""The only door to Ray: warm actor pools with bounded attempts, deadlines and exact accounting.

Ray's own retries are off (`max_restarts=0`, `max_task_retries=0`): unlimited retries would loop for
ever on a record that kills its worker. A lost actor is replaced and its task tried again here; a
task that fails its last attempt is reported while the others finish. A pool outlives its stage, so
that imports and models are paid for once per process.
"""

from __future__ import annotations

import os
import statistics
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

# An unauthenticated Ray is remote code execution for whoever reaches its ports. Ray reads these
# once, when it is imported.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Silences a notice about zero-GPU tasks that Ray prints for every pool.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from pipelines.config import Cluster
from pipelines.errors import NightrankError
from pipelines.runtime.executor import FINAL_EXIT_CODES, Outcome, as_failure
from pipelines.runtime.stage import Pool, Stage, Task
from pipelines.runtime.unit import UnitRunner, UnitSpec
from pipelines.storage.dataset import Record
from pipelines.storage.store import StoreSpec

POLL_SECONDS = 1.0
# Metadata, tasks and records only: bulk data go through the lake.
OBJECT_STORE_BYTES = 256 << 20


class _Actor:
    """A worker process; `run` serves one unit at a time."""

    def __init__(self, store: StoreSpec, threads: int, folder: str) -> None:
        self._runner = UnitRunner(store, threads, folder)

    def run(self, spec: UnitSpec, task: Task, attempt: int) -> Record:
        """See `UnitRunner.run`."""
        return self._runner.run(spec, task, attempt)

    def node(self) -> str:
        """The node this process runs on."""
        return str(ray.get_runtime_context().get_node_id())


@dataclass
class _Slot:
    """One place in a pool: its actor and what it last held open."""

    actor: Any
    node: Any
    affinity: str = ""


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
            _connect(cluster.address)
        available = ray.cluster_resources()
        cpus = int(available.get("CPU", 1))
        gpus = int(available.get("GPU", 0)) if cluster.model_gpus else 0
        cores = cpus if cluster.address else os.cpu_count() or 1
        self._sizes: dict[Pool, int] = {
            "general": cluster.workers or max(2, min(cores, cpus) // 2),
            "model": cluster.model_workers or (gpus or max(1, min(cores, cpus))),
        }
        self._threads = {
            pool: cluster.threads_per_worker or max(1, cores // size)
            for pool, size in self._sizes.items()
        }

    def run(
        self, stage: Stage, tasks: Sequence[tuple[Task, int]], store: StoreSpec
    ) -> Iterator[Outcome]:
        """See `Executor.run`."""
        self._store = store
        queue = deque(sorted(((t, n, 1) for t, n in tasks), key=lambda item: item[0].affinity))
        spec = ray.put(UnitSpec.of(stage))
        idle = self._pool(stage.pool, len(queue))
        running: dict[Any, _Running] = {}
        finished: list[float] = []
        try:
            while queue or running:
                while queue and idle:
                    slot = idle.pop()
                    task, number, attempt = _take(queue, slot, running)
                    slot.affinity = task.affinity
                    reference = slot.actor.run.remote(spec, task, number)
                    running[reference] = _Running(slot, task, number, attempt)
                ready, _ = ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS)
                for reference in ready:
                    unit = running.pop(reference)
                    try:
                        record = ray.get(reference)
                        finished.append(time.monotonic() - unit.started)
                        idle.append(unit.slot)
                        yield Outcome(unit.task, record)
                    except RayActorError as error:
                        self._replace(stage.pool, unit.slot, idle)
                        lost = f"worker process died: {_first_line(error)}"
                        where, do = (
                            f"{stage.name}, {unit.task.shard}",
                            "look at memory and Ray logs",
                        )
                        failure = NightrankError("E_CLUSTER", lost, where, do)
                        yield from self._again(unit, failure, queue, _node_alive(unit.slot))
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
                        self._replace(stage.pool, unit.slot, idle)
                        what, where = (
                            f"no end after {limit:.0f} s",
                            f"{stage.name}, {unit.task.shard}",
                        )
                        do = "raise cluster.deadline_seconds if units are that long"
                        failure = NightrankError("E_DEADLINE", what, where, do)
                        yield from self._again(unit, failure, queue)
        finally:
            # Cut short: units in flight belong to nobody, so their processes go too.
            for unit in running.values():
                ray.kill(unit.slot.actor)
                self._pools[stage.pool].remove(unit.slot)

    def _again(
        self, unit: _Running, failure: NightrankError, queue: deque[Any], counts: bool = True
    ) -> Iterator[Outcome]:
        """Queues the task again, or reports its failure; a lost node is not the task's fault."""
        if failure.exit_code in FINAL_EXIT_CODES or (
            counts and unit.attempt >= self._cluster.attempts
        ):
            yield Outcome(unit.task, None, failure)
        else:
            queue.append((unit.task, unit.number, unit.attempt + counts))

    def _pool(self, pool: Pool, wanted: int) -> list[_Slot]:
        """All slots of a pool, made up to its size, never more than there are tasks."""
        slots = self._pools.setdefault(pool, [])
        while len(slots) < min(self._sizes[pool], wanted):
            slots.append(self._slot(pool))
        return list(slots)

    def _slot(self, pool: Pool) -> _Slot:
        gpus = self._cluster.model_gpus if pool == "model" else 0.0
        options: dict[str, Any] = {"num_cpus": 1, "max_restarts": 0, "max_task_retries": 0}
        options["num_gpus"] = gpus
        made = ray.remote(_Actor).options(**options)
        actor = made.remote(self._store, self._threads[pool], os.getcwd())
        return _Slot(actor, actor.node.remote())

    def _replace(self, pool: Pool, slot: _Slot, idle: list[_Slot]) -> None:
        ray.kill(slot.actor)
        self._pools[pool].remove(slot)
        fresh = self._slot(pool)
        self._pools[pool].append(fresh)
        idle.append(fresh)

    def close(self) -> None:
        """Kills all workers, and the cluster where it was started here."""
        if not ray.is_initialized():
            return
        for slots in self._pools.values():
            for slot in slots:
                ray.kill(slot.actor)
        self._pools.clear()
        if self._started_here:
            ray.shutdown()


def _connect(address: str | None) -> None:
    """Attaches to a cluster, or starts one for this process alone."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address or os.environ.get("RAY_ADDRESS"):
            ray.init(address=address or None, **quiet)
        else:
            # A token of this process's own: Ray would else leave one in the home directory, which
            # turns authentication on for every later `ray start` of this user.
            os.environ.setdefault("RAY_AUTH_TOKEN", uuid.uuid4().hex)
            # Two pools must fit side by side on two cores, hence at least 8 logical CPUs.
            ray.init(
                address="local",
                num_cpus=max(8, 2 * (os.cpu_count() or 1)),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **quiet,
            )
    except (RayError, OSError, ConnectionError, RuntimeError, ValueError) as error:
        what = f"no Ray cluster: {_first_line(error)}"
        do = "check cluster.address, leave it out to start one here, or set cluster.executor=serial"
        raise NightrankError("E_CLUSTER", what, address or "local", do) from error


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


def _node_alive(slot: _Slot) -> bool:
    """Whether the slot's node still lives, so that the loss counts against the task."""
    try:
        node = ray.get(slot.node, timeout=1)
    except Exception:
        return True
    return any(n["NodeID"] == node and n["Alive"] for n in ray.nodes())


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
