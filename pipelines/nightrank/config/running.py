"""The part of the configuration that says where and how the work runs.

Nothing here enters a plan's identity.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from nightrank.config.nightly import Budget as Budget
from nightrank.config.nightly import Gate as Gate
from nightrank.config.nightly import Nightly as Nightly
from nightrank.config.values import UNIT, Bytes, Seconds, Section

STANDARD_POOLS = ("general", "index", "model")


class Search(Section):
    """Memory for searching."""

    memory_bytes: Bytes = Field(
        default=8 << 30,
        ge=1,
        description="Vectors and indexes that one search worker may hold in memory.",
    )


# Stages by their file's name. FAISS and torch never meet in one process: their GPU builds may bring
# two CUDA majors.
IndexStage = Literal["train_index", "build_index", "search"]
ModelStage = Literal["tokenize", "terms", "embed", "rerank"]
OtherStage = Literal[
    "ingest",
    "delta",
    "extract",
    "segment",
    "distinct",
    "carry",
    "merge",
    "rank",
    "rejects",
    "changes",
    "removals",
    "copy",
    "compact",
    "evaluate",
]
PoolName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]


class Pool(Section):
    """A pool of worker processes with the same resources."""

    stages: list[IndexStage | ModelStage | OtherStage] = Field(
        default=[], description="Stages that run in this pool instead of their standard one."
    )
    workers: int = Field(
        default=0,
        ge=0,
        json_schema_extra={UNIT: "processes"},
        description="Highest number of workers, never more than a stage has units. 0 means one "
        "per two CPUs and at least 2; for `model`, one per CPU; where workers have GPUs, as many "
        "as the GPUs allow. An autoscaler sees workers that wait for a node.",
    )
    min_workers: int | None = Field(
        default=None,
        ge=0,
        json_schema_extra={UNIT: "processes"},
        description="Workers that are kept for later stages. The others end as soon as a stage has "
        "no more units for them, which frees their nodes. Without it all are kept while there is "
        "room: the next stage then finds its models loaded.",
    )
    cpus: float | None = Field(
        default=None,
        ge=0.0,
        allow_inf_nan=False,
        json_schema_extra={UNIT: "CPUs"},
        description="CPUs that one worker reserves. Without it 1.",
    )
    gpus: float | None = Field(
        default=None,
        ge=0.0,
        allow_inf_nan=False,
        json_schema_extra={UNIT: "GPUs"},
        description="GPUs that one worker reserves; fractions are allowed. Without it 1 for "
        "`model` where the cluster has GPUs, 1 for `index` where faiss-gpu is installed too, and 0 "
        "for the other pools. With it, the precision of models and the size of units are planned "
        "for GPUs, even if the planning machine has none.",
    )
    memory_bytes: Bytes = Field(
        default=0,
        ge=0,
        description="Memory that one worker reserves, of the memory that its node reports to Ray.",
    )
    threads: int = Field(
        default=0,
        ge=0,
        json_schema_extra={UNIT: "threads"},
        description="Threads of torch and FAISS in one worker. 0 means "
        "`cluster.threads_per_worker`; if that is 0 too, `cpus`; without `cpus` an even share.",
    )
    labels: dict[str, str] = Field(
        default={},
        description="Labels of the nodes that its workers run on, as Ray's label selector takes "
        "them. Without it `nightrank.io/pool: <name>` where any node has that label. A pool with "
        "a name of its own that no node is labelled with uses the nodes of the standard pools.",
    )

    @model_validator(mode="after")
    def _separate(self) -> Pool:
        if self.workers and (self.min_workers or 0) > self.workers:
            raise ValueError(f"min_workers {self.min_workers} is more than workers {self.workers}")
        kinds = [set(get_args(kind)) & set(self.stages) for kind in (IndexStage, ModelStage)]
        if all(kinds):
            named = " and ".join(sorted(stages)[0] for stages in kinds)
            raise ValueError(f"{named} never share a process: FAISS and torch may differ in CUDA")
        return self


class Cluster(Section):
    """Where the work runs, and on how many workers."""

    executor: Literal["ray", "serial"] = Field(
        default="ray", description="`ray`, or `serial`: everything in this process."
    )
    address: str | None = Field(
        default=None,
        description="Address of an existing Ray cluster, e.g. `host:6379`. Without it, and without "
        "the variable `RAY_ADDRESS`, a cluster is started on this machine.",
    )
    pools: dict[PoolName, Pool] = Field(
        default={},
        description="Pools of workers by name. `model` runs the stages that hold a model; `index` "
        "those of FAISS, where it has a GPU or is named here; `general` all others. A pool with "
        "another name runs the stages that it names.",
    )
    threads_per_worker: int = Field(
        default=0,
        ge=0,
        json_schema_extra={UNIT: "threads"},
        description="Threads of torch and FAISS in one worker. 0 means an even share. Another "
        "number can change the low bits of a real model's scores.",
    )
    attempts: int = Field(
        default=3,
        ge=1,
        le=20,
        description="How often a unit is tried before it is halved to find a row that kills its "
        "worker, and before the stage fails.",
    )
    deadline_seconds: Seconds = Field(
        default=3600.0,
        gt=0.0,
        description="A unit that takes ten times the median of its stage is ended and tried "
        "elsewhere, but never before this time. The default allows for a large unit on a slow CPU.",
    )

    @property
    def existing_address(self) -> str | None:
        """Address of an existing cluster: `address`, else RAY_ADDRESS (set on nodes, in jobs)."""
        return self.address or os.environ.get("RAY_ADDRESS") or None

    def pool(self, name: str) -> Pool:
        """The pool of a name, as configured or with all defaults."""
        return self.pools.get(name, Pool())

    def gpus_of(self, stage: ModelStage) -> float | None:
        """GPUs that the config gives to one worker of a stage; None where it does not say."""
        if self.executor == "serial":
            return None
        own = (pool for pool in self.pools.values() if stage in pool.stages)
        return next(own, self.pool("model")).gpus

    @model_validator(mode="after")
    def _each_stage_once(self) -> Cluster:
        pool_of: dict[str, str] = {}
        for name, pool in self.pools.items():
            if name not in STANDARD_POOLS and not pool.stages:
                known = ", ".join(STANDARD_POOLS)
                raise ValueError(f"pools.{name} needs stages; pools without are {known}")
            for stage in pool.stages:
                if stage in pool_of:
                    raise ValueError(f"pools: {stage} is in both {pool_of[stage]} and {name}")
                pool_of[stage] = name
        for name, alien in (("model", IndexStage), ("index", ModelStage)):
            for stage in self.pool(name).stages:
                if stage in get_args(alien):
                    what = f"pools.{name}.stages: {stage} cannot run here"
                    raise ValueError(f"{what}: FAISS and torch never share a process")
        for stage in set(self.pool("general").stages) & set(get_args(ModelStage)):
            if "index" not in self.pools:
                what = f"pools.general.stages: {stage} needs a pool index"
                raise ValueError(f"{what}: FAISS and torch never share a process")
        return self
