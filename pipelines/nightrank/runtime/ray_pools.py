"""Pools of worker processes on a Ray cluster: how large, of what shape, on which nodes.

A pool outlives its stage, so that imports and models are paid for once per process. Ray's own
restarts are off: a lost process is replaced here, and its unit is the executor's to decide about.
What waits for a node is pending in Ray, and that is what an autoscaler answers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from nightrank.config.running import STANDARD_POOLS, Cluster, IndexStage, ModelStage
from nightrank.process.without_pandas import without_pandas

# This one comes before Ray itself: it says how Ray is to behave.
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
    """A worker process; serves one unit at a time."""

    def __init__(self, store: StoreSpec, threads: int, folder: str) -> None:
        without_pandas()
        self._runner = UnitRunner(store, threads, folder)
        self._metrics = WorkerMetrics()
        self._spec: UnitSpec
        self._shared: Any = None

    def begin(self, spec: UnitSpec, shared: Any) -> None:
        """What the calls after this one are units of, and what their tasks share."""
        self._spec, self._shared = spec, shared

    def run(self, begun: None, task: Task, attempt: int) -> Record:
        """See `UnitRunner.run`."""
        record = self._runner.run(self._spec, replace(task, shared=self._shared), attempt)
        self._metrics.count(self._spec.name, record, self._runner.loads)
        return record

    def probe(self, begun: None, task: Task) -> int:
        """See `UnitRunner.probe`."""
        return self._runner.probe(self._spec, replace(task, shared=self._shared))

    def node(self) -> str:
        """The node this process runs on."""
        return str(ray.get_runtime_context().get_node_id())


@dataclass(eq=False)
class Slot:
    """One place in a pool: its actor, the node it runs on, and what it last held open.

    Attributes:
        node: a reference that is ready once the actor is.
        begun: the spec and the shared arguments that it was last told of, and that call's end.
        is_up: whether it was seen ready; only then is it given work, since one that waits for a
            node to come may wait for long, or for ever.
    """

    actor: Any
    node: Any
    affinity: str = ""
    begun: tuple[Any, Any, Any] = (None, None, None)
    is_up: bool = False

    def begin(self, spec: Any, shared: Any) -> Any:
        """Tells the worker of a stage and of what its next tasks share, once.

        Returns:
            A reference for `run` and `probe`, so that they fail where this failed.
        """
        if self.begun[0] is not spec or self.begun[1] is not shared:
            # With every unit both would be pickled, fetched and opened: most of a null unit.
            self.begun = spec, shared, self.actor.begin.remote(spec, shared)
        return self.begun[2]


@dataclass(frozen=True)
class Shape:
    """What a pool's workers are: at most how many, kept how many, and what each one reserves."""

    most: int
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
    """All pools of one run; Ray is up already."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._slots: dict[str, list[Slot]] = {}
        self._labelled = labelled_pools()
        self._shapes: dict[str, Shape] = {}
        self._homes: dict[str, str] = {
            kind: name for name, pool in cluster.pools.items() for kind in pool.stages
        }

    @property
    def sizes(self) -> dict[str, int]:
        """Workers by pool, those that are starting included."""
        return {name: len(self._slots.get(name, [])) for name in (*STANDARD_POOLS, *self._slots)}

    def name_of(self, stage: Stage) -> str:
        """The pool that a stage runs on."""
        if named := self._homes.get(stage.kind):
            return named
        # Without a GPU of their own the index stages need no processes of their own either.
        own = "index" in self._cluster.pools or stage.pool != "index" or self.shape("index").gpus
        return stage.pool if own else "general"

    def shape(self, name: str) -> Shape:
        """What the workers of a pool are, as the cluster is when it is first asked for."""
        if name not in self._shapes:
            self._shapes[name] = self._measure(name)
        return self._shapes[name]

    def _measure(self, name: str) -> Shape:
        wanted = self._cluster.pool(name)
        has = ray.cluster_resources()
        cpus, gpus = int(has.get("CPU", 1)), float(has.get("GPU", 0))
        elsewhere = self._cluster.existing_address is not None
        cores = cpus if elsewhere else min(os.cpu_count() or 1, cpus)
        usual = {"index": bool(gpus and has_faiss_gpu()), "model": bool(gpus)}
        share = float(usual.get(name, False)) if wanted.gpus is None else wanted.gpus
        fitting = max(1, int(gpus / share)) if share else 0
        most = wanted.workers or fitting or (cores if name == "model" else max(2, cores // 2))
        threads = wanted.threads or self._cluster.threads_per_worker or int(wanted.cpus or 0)
        labels = wanted.labels or ({POOL_LABEL: self._nodes_of(name)} if self._labelled else {})
        return Shape(
            max(1, most),
            wanted.min_workers,
            threads or max(1, cores // max(1, most)),
            1.0 if wanted.cpus is None else wanted.cpus,
            share,
            wanted.memory_bytes,
            labels,
        )

    def _nodes_of(self, name: str) -> str:
        """The pool whose nodes take a pool's workers; for its own there may be no labelled ones."""
        if name in STANDARD_POOLS or name in self._labelled:
            return name
        stages = set(self._cluster.pool(name).stages)
        return next((n for n, kind in STAGES_OF if stages & set(get_args(kind))), "general")

    def fill(self, name: str, units: int, store: StoreSpec) -> list[Slot]:
        """All slots of a pool, made up to its size, never more than there are units.

        Other pools stay warm while there is room for all; where CPUs or GPUs would not suffice, and
        their configuration does not keep them, they are closed first: an actor that waits for them
        would wait for ever.
        """
        slots = self._slots.setdefault(name, [])
        size = max(len(slots), min(self.shape(name).most, units))
        if not self._has_room(name, size):
            for other in [other for other in self._slots if other != name]:
                self._shrink(other, self.shape(other).kept or 0)
        while len(slots) < size:
            slots.append(self._slot(name, store))
        return list(slots)

    def _has_room(self, name: str, size: int) -> bool:
        has = ray.cluster_resources()
        held = {other: len(slots) for other, slots in self._slots.items()} | {name: size}
        cpus = sum(count * self.shape(other).cpus for other, count in held.items())
        gpus = sum(count * self.shape(other).gpus for other, count in held.items())
        return cpus <= has.get("CPU", 0) and gpus <= has.get("GPU", 0)

    def spare(self, name: str, slot: Slot) -> bool:
        """Whether an idle worker goes at once, its stage having no unit left for it."""
        kept = self.shape(name).kept
        if kept is None or len(self._slots[name]) <= kept:
            return False
        self.drop(name, slot)
        return True

    def replace(self, name: str, slot: Slot, store: StoreSpec) -> Slot:
        """A fresh worker in the place of a lost one."""
        self.drop(name, slot)
        fresh = self._slot(name, store)
        self._slots[name].append(fresh)
        return fresh

    def drop(self, name: str, slot: Slot) -> None:
        """Ends a worker, whatever it does."""
        ray.kill(slot.actor)
        self._slots[name].remove(slot)

    def close(self) -> None:
        """Ends all workers."""
        for name in list(self._slots):
            self._shrink(name, 0)

    def _shrink(self, name: str, count: int) -> None:
        for slot in self._slots[name][count:]:
            self.drop(name, slot)

    def _slot(self, name: str, store: StoreSpec) -> Slot:
        shape = self.shape(name)
        options: dict[str, Any] = {
            "num_cpus": shape.cpus,
            "num_gpus": shape.gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        if shape.memory_bytes:
            options["memory"] = shape.memory_bytes
        if shape.labels:
            options["label_selector"] = shape.labels
        actor = ray.remote(_Actor).options(**options).remote(store, shape.threads, os.getcwd())
        return Slot(actor, actor.node.remote())
