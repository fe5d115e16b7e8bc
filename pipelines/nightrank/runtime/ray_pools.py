"""Pools of worker processes on a Ray cluster: how large, of what shape, on which nodes.

A pool outlives its stage, so that each process imports modules and loads models once. Ray's own
restarts are off: a lost process is replaced here, and the executor decides about its unit. A worker
that waits for a node is pending in Ray, which is what an autoscaler reacts to.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from nightrank.config.running import STANDARD_POOLS, Cluster, IndexStage, ModelStage
from nightrank.process.without_pandas import without_pandas

# Before Ray itself: it sets the environment that Ray reads at import.
from nightrank.runtime.ray_cluster import POOL_LABEL, has_faiss_gpu, labelled_pools
from nightrank.runtime.ray_metrics import WorkerMetrics
from nightrank.runtime.stage import Stage, Task
from nightrank.runtime.unit import UnitRunner, UnitSpec
from nightrank.storage.dataset import Record
from nightrank.storage.store import StoreSpec

# isort: split
import ray

STAGES_OF = (("model", ModelStage), ("index", IndexStage))


class _Actor:
    """A worker process; runs one unit at a time."""

    def __init__(self, store: StoreSpec, threads: int, folder: str) -> None:
        without_pandas()
        self._runner = UnitRunner(store, threads, folder)
        self._metrics = WorkerMetrics()
        self._spec: UnitSpec
        self._shared: Any = None

    def begin(self, spec: UnitSpec, shared: Any) -> None:
        """Sets the stage of the following calls, and what their tasks share."""
        self._spec, self._shared = spec, shared

    def run(self, begun: None, task: Task[Any], attempt: int) -> Record:
        """See `UnitRunner.run`."""
        record = self._runner.run(self._spec, replace(task, shared=self._shared), attempt)
        self._metrics.count(self._spec.name, record, self._runner.loads)
        return record

    def probe(self, begun: None, task: Task[Any]) -> int:
        """See `UnitRunner.probe`."""
        return self._runner.probe(self._spec, replace(task, shared=self._shared))

    def node(self) -> str:
        """The node this process runs on."""
        return str(ray.get_runtime_context().get_node_id())


@dataclass(eq=False)
class Slot:
    """One place in a pool: its actor, and what the actor has open.

    Attributes:
        actor: the worker process.
        node: a reference to the id of its node, ready once the actor is.
        affinity: of its last unit.
        begun: spec and shared arguments of the last `begin`, and the reference that it returned.
        is_up: whether the actor has started. Only then it gets units: an actor that waits for a
            node may wait for a long time, or forever.
    """

    actor: Any
    node: Any
    affinity: str = ""
    begun: tuple[Any, Any, Any] = (None, None, None)
    is_up: bool = False

    def begin(self, spec: Any, shared: Any) -> Any:
        """Sends a stage's spec and its tasks' shared arguments to the worker, once.

        Returns:
            A reference to pass to `run` and `probe`, so that they fail if this call failed.
        """
        if self.begun[0] is not spec or self.begun[1] is not shared:
            # Sent with every unit, they would be most of the time of a unit that computes nothing.
            self.begun = spec, shared, self.actor.begin.remote(spec, shared)
        return self.begun[2]


@dataclass(frozen=True)
class Shape:
    """A pool's workers: their number, and what each one reserves.

    Attributes:
        max_workers: at most this many.
        kept: this many stay when their stage has no unit left; None keeps all.
        threads: CPU threads that a worker uses.
        cpus: logical CPUs that it reserves.
        gpus: GPUs, or the share of one, that it reserves.
        memory_bytes: memory that it reserves; 0 reserves none.
        labels: of the nodes that may take it.
    """

    max_workers: int
    kept: int | None
    threads: int
    cpus: float
    gpus: float
    memory_bytes: int
    labels: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        text = f"{self.cpus:g} CPU and {self.gpus:g} GPUs each"
        if self.memory_bytes:
            text += f", {self.memory_bytes / 2**30:.1f} GiB"
        return text + "".join(f", nodes labelled {k}={v}" for k, v in self.labels.items())


class Pools:
    """All pools of one run.

    Args:
        cluster: the configuration; Ray is connected already.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._slots: dict[str, list[Slot]] = {}
        self._labelled = labelled_pools()
        self._shapes: dict[str, Shape] = {}
        self._pool_by_kind: dict[str, str] = {
            kind: name for name, pool in cluster.pools.items() for kind in pool.stages
        }

    @property
    def sizes(self) -> dict[str, int]:
        """Workers by pool, those that are starting included."""
        return {name: len(self._slots.get(name, [])) for name in (*STANDARD_POOLS, *self._slots)}

    def name_of(self, stage: Stage) -> str:
        """The pool that a stage runs on."""
        if named := self._pool_by_kind.get(stage.kind):
            return named
        # Index stages need processes of their own only for a GPU of their own.
        own = "index" in self._cluster.pools or stage.pool != "index" or self.shape("index").gpus
        return stage.pool if own else "general"

    def shape(self, name: str) -> Shape:
        """The shape of a pool's workers, from the cluster as it is at the first call."""
        if name not in self._shapes:
            self._shapes[name] = self._measure(name)
        return self._shapes[name]

    def _measure(self, name: str) -> Shape:
        pool = self._cluster.pool(name)
        resources = ray.cluster_resources()
        cpus, gpus = int(resources.get("CPU", 1)), float(resources.get("GPU", 0))
        elsewhere = self._cluster.existing_address is not None
        cores = cpus if elsewhere else min(os.cpu_count() or 1, cpus)
        default = {"index": bool(gpus and has_faiss_gpu()), "model": bool(gpus)}
        share = float(default.get(name, False)) if pool.gpus is None else pool.gpus
        fitting = max(1, int(gpus / share)) if share else 0
        workers = pool.workers or fitting or (cores if name == "model" else max(2, cores // 2))
        threads = pool.threads or self._cluster.threads_per_worker or int(pool.cpus or 0)
        labels = pool.labels or ({POOL_LABEL: self._nodes_of(name)} if self._labelled else {})
        return Shape(
            max(1, workers),
            pool.min_workers,
            threads or max(1, cores // max(1, workers)),
            1.0 if pool.cpus is None else pool.cpus,
            share,
            pool.memory_bytes,
            labels,
        )

    def _nodes_of(self, name: str) -> str:
        """The pool whose nodes take a pool's workers; a user's pool may have no labelled nodes."""
        if name in STANDARD_POOLS or name in self._labelled:
            return name
        stages = set(self._cluster.pool(name).stages)
        return next((n for n, kind in STAGES_OF if stages & set(get_args(kind))), "general")

    def fill(self, name: str, units: int, store: StoreSpec) -> list[Slot]:
        """All slots of a pool, started up to its size, but never more than there are units.

        Other pools keep their workers while there is room for all. Where CPUs or GPUs do not
        suffice, workers that the configuration does not keep are ended first: a new actor would
        wait for their resources forever.
        """
        slots = self._slots.setdefault(name, [])
        size = max(len(slots), min(self.shape(name).max_workers, units))
        if not self._has_room(name, size):
            for other in [other for other in self._slots if other != name]:
                self._shrink(other, self.shape(other).kept or 0)
        while len(slots) < size:
            slots.append(self._start(name, store))
        return list(slots)

    def _has_room(self, name: str, size: int) -> bool:
        resources = ray.cluster_resources()
        held = {other: len(slots) for other, slots in self._slots.items()} | {name: size}
        cpus = sum(count * self.shape(other).cpus for other, count in held.items())
        gpus = sum(count * self.shape(other).gpus for other, count in held.items())
        return cpus <= resources.get("CPU", 0) and gpus <= resources.get("GPU", 0)

    def spare(self, name: str, slot: Slot) -> bool:
        """Ends an idle worker that the pool does not keep, and says whether it did."""
        kept = self.shape(name).kept
        if kept is None or len(self._slots[name]) <= kept:
            return False
        self.drop(name, slot)
        return True

    def replace(self, name: str, slot: Slot, store: StoreSpec) -> Slot:
        """Ends a lost worker and starts one in its place."""
        self.drop(name, slot)
        slot = self._start(name, store)
        self._slots[name].append(slot)
        return slot

    def drop(self, name: str, slot: Slot) -> None:
        """Kills a worker, running or not."""
        ray.kill(slot.actor)
        self._slots[name].remove(slot)

    def close(self) -> None:
        """Ends all workers."""
        for name in list(self._slots):
            self._shrink(name, 0)

    def _shrink(self, name: str, count: int) -> None:
        for slot in self._slots[name][count:]:
            self.drop(name, slot)

    def _start(self, name: str, store: StoreSpec) -> Slot:
        shape = self.shape(name)
        actor_class = ray.remote(_Actor).options(
            num_cpus=shape.cpus,
            num_gpus=shape.gpus,
            memory=shape.memory_bytes or None,
            label_selector=shape.labels or None,
            max_restarts=0,
            max_task_retries=0,
        )
        actor = actor_class.remote(store, shape.threads, os.getcwd())
        return Slot(actor, actor.node.remote())
