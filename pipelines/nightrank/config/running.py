"""The part of the configuration that says how a run goes: where, reusing what, within which limits.

Nothing here enters a plan's identity.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from nightrank.process.home import at_home

STANDARD_POOLS = ("general", "index", "model")
Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


def _with_a_home(path: str) -> str:
    at_home(path)
    return path


# A local path or s3:// url. `~` is this machine's: the config of a job is read where it runs.
UserPath = Annotated[str, Field(min_length=1), AfterValidator(at_home)]
# A model's name stays as it is written, `~` too: the lake knows models by it.
ModelName = Annotated[str, Field(min_length=1), AfterValidator(_with_a_home)]


class Section(BaseModel):
    """A frozen part of the configuration that knows exactly its own keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Nightly(Section):
    """How nights build upon each other: what a night costs, and when the template is trained anew.

    A new template has new word statistics and, of an approximate index, new lists: that alone
    changes what a night finds.

    Attributes:
        audit_nights: every standing list is searched in full once in so many nights.
        store_files: score stores that one document shard may have before they become one.
        max_segments: more segments than this are merged.
        max_dead_fraction: a segment with a larger share of dead documents is merged.
        retrain_fraction: the index template (and BM25's statistics) is trained anew when documents
            added, changed and removed since it was trained exceed this share of what it saw,
        recall_floor: or when the recall of an approximate index, measured on queries of an earlier
            night against an exact search, is below this,
        max_imbalance: or when an IVF index shard's lists are more uneven than this (1 is even).
    """

    audit_nights: int = Field(default=30, ge=1, le=256)
    store_files: int = Field(default=16, ge=1, le=1000)
    max_segments: int = Field(default=8, ge=1, le=1000)
    max_dead_fraction: Fraction = 0.2
    retrain_fraction: float = Field(default=0.5, ge=0.0)
    recall_floor: Fraction = 0.9
    max_imbalance: float = Field(default=4.0, ge=1.0)


class Budget(Section):
    """How long a run may work; at a limit it lets units in flight finish and ends with exit 10.

    Attributes:
        until: the time of day, `HH:MM` on the clock of the machine that runs the job, next reached
            after the plan's first run began. Retries of the plan keep that deadline, which is
            recorded in the lake (`runtime/deadline.py` says from when a new one counts).
        gpu_hours: GPUs of the cluster times hours since the start, those of failed tries included.
        usd: `usd_per_hour` times hours since the start, those of failed tries included.
        usd_per_hour: price of the whole cluster.
        rerank_first: the last rerank step scores the first so many of every list before any deeper
            candidate of any list, and so on; a run that was begun so goes on so.
        on_budget: `keep_previous` publishes nothing until all is scored; `publish_depth` publishes
            the deepest of these depths that is complete for all queries, and says so.
    """

    until: Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")] | None = None
    gpu_hours: float | None = Field(default=None, ge=0.0)
    usd: float | None = Field(default=None, ge=0.0)
    usd_per_hour: float | None = Field(default=None, gt=0.0)
    rerank_first: list[Annotated[int, Field(ge=1)]] = [20, 50]
    on_budget: Literal["keep_previous", "publish_depth"] = "keep_previous"

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return any(limit is not None for limit in (self.until, self.gpu_hours, self.usd))

    @model_validator(mode="after")
    def _priced(self) -> Budget:
        if self.usd is not None and self.usd_per_hour is None:
            raise ValueError("usd needs usd_per_hour, the price of the whole cluster")
        return self


class Gate(Section):
    """What `nightrank nightly` checks before it publishes, against the generation readers see.

    Attributes:
        max_delete_fraction: share of the published generation's documents that may be removed;
            before anything is published, of the newest index's.
        max_withdrawn_queries: share of the earlier generation's queries that may be asked no more.
        max_lost_queries: share of the queries asked before and now that may have lost their list.
        min_overlap: least mean rank-biased overlap (p = 0.9) of the old and new published lists.
        max_measure_drop: by how much the mean of the first measure may fall, where there are qrels.
        max_reject_rate: share of document and query rows that may be rejected.
        max_differing_lists: lists that stood and were found otherwise when searched in full.
    """

    max_delete_fraction: Fraction = 0.2
    max_withdrawn_queries: Fraction = 0.2
    max_lost_queries: Fraction = 0.01
    min_overlap: Fraction = 0.5
    max_measure_drop: Fraction = 0.02
    max_reject_rate: Fraction = 0.01
    max_differing_lists: int = Field(default=0, ge=0)


class Search(Section):
    """How searching runs: vectors and indexes that one search worker may hold, in bytes."""

    memory_bytes: int = Field(default=8 << 30, ge=1)


# Stages by their file's name. FAISS and torch never meet in one process: their GPU builds may bring
# two CUDA majors.
IndexStage = Literal["train_index", "build_index", "search"]
ModelStage = Literal["tokenize", "embed", "rerank"]
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
    """Worker processes of one shape.

    Attributes:
        stages: stages that run here instead of where they would.
        workers: at most so many processes, never more than a stage has units; 0 means one per two
            CPUs and at least 2, of `model` as many as CPUs; where a worker has GPUs, as many as
            there are. What waits for a node is what an autoscaler sees.
        min_workers: so many are kept for later stages; the others go as soon as a stage has no more
            units for them, so that their nodes can. By default all are kept while there is room:
            the next stage then finds its models loaded.
        cpus: CPUs that one worker reserves; by default 1.
        gpus: GPUs that one worker reserves, also parts of one; by default 1 where the cluster has
            any, of `index` where faiss-gpu is installed too, and 0 of all other pools. Where it is
            given, a model's precision and the size of its units are planned for GPUs, whatever the
            planning machine has.
        memory_bytes: memory that one worker reserves, of what its node tells Ray it has.
        threads: of torch and FAISS in one worker; 0 means `cluster.threads_per_worker`, else its
            `cpus`, else an even share.
        labels: labels of the nodes that take its workers, as Ray's label selector has them. By
            default `nightrank.io/pool: <name>` where any node carries that label; a pool of a name
            of its own that no node carries goes where its stages would.
    """

    stages: list[IndexStage | ModelStage | OtherStage] = []
    workers: int = Field(default=0, ge=0)
    min_workers: int | None = Field(default=None, ge=0)
    cpus: float | None = Field(default=None, ge=0.0, allow_inf_nan=False)
    gpus: float | None = Field(default=None, ge=0.0, allow_inf_nan=False)
    memory_bytes: int = Field(default=0, ge=0)
    threads: int = Field(default=0, ge=0)
    labels: dict[str, str] = {}

    @model_validator(mode="after")
    def _separate(self) -> Pool:
        if self.workers and (self.min_workers or 0) > self.workers:
            raise ValueError(f"min_workers {self.min_workers} is more than workers {self.workers}")
        kinds = [set(get_args(kind)) & set(self.stages) for kind in (IndexStage, ModelStage)]
        if all(kinds):
            named = " and ".join(sorted(found)[0] for found in kinds)
            raise ValueError(f"{named} never share a process: FAISS and torch may differ in CUDA")
        return self


class Cluster(Section):
    """How and where the work runs; never changes a result.

    Attributes:
        executor: `ray` or `serial` (in this process).
        address: an existing Ray cluster; without it one is started on this machine.
        pools: worker processes by name. `model` has the stages that hold a model, `index` those of
            FAISS where it has a GPU or is named here, `general` all others; a pool of another name
            has the stages it names.
        threads_per_worker: threads of torch and FAISS in one worker; 0 means an even share.
        attempts: how often a unit is tried before it is searched for a row that kills its worker,
            and before the stage fails.
        deadline_seconds: a unit is killed and tried elsewhere after ten times the median of its
            stage, but never before this. The default leaves a large unit on a slow CPU its time.
    """

    executor: Literal["ray", "serial"] = "ray"
    address: str | None = None
    pools: dict[PoolName, Pool] = {}
    threads_per_worker: int = Field(default=0, ge=0)
    attempts: int = Field(default=3, ge=1, le=20)
    deadline_seconds: float = Field(default=3600.0, gt=0.0)

    @property
    def standing(self) -> str | None:
        """A cluster that stands: the config names it, or RAY_ADDRESS (set on nodes and in jobs)."""
        return self.address or os.environ.get("RAY_ADDRESS") or None

    def pool(self, name: str) -> Pool:
        """The pool of a name, as configured or all defaults."""
        return self.pools.get(name, Pool())

    def gpus_of(self, stage: ModelStage) -> float | None:
        """GPUs that the config gives to one worker of a stage; None where it does not say."""
        if self.executor == "serial":
            return None
        own = (pool for pool in self.pools.values() if stage in pool.stages)
        return next(own, self.pool("model")).gpus

    @model_validator(mode="after")
    def _each_stage_once(self) -> Cluster:
        homes: dict[str, str] = {}
        for name, pool in self.pools.items():
            if name not in STANDARD_POOLS and not pool.stages:
                known = ", ".join(STANDARD_POOLS)
                raise ValueError(f"pool {name} names no stages; without any there are {known}")
            for stage in pool.stages:
                if stage in homes:
                    raise ValueError(f"{stage} stands in pools {homes[stage]} and {name}")
                homes[stage] = name
        for name, alien in (("model", IndexStage), ("index", ModelStage)):
            for stage in self.pool(name).stages:
                if stage in get_args(alien):
                    raise ValueError(f"{stage} cannot run in pool {name}: FAISS and torch apart")
        for stage in set(self.pool("general").stages) & set(get_args(ModelStage)):
            if "index" not in self.pools:
                raise ValueError(
                    f"{stage} in pool general needs a pool index: FAISS and torch apart"
                )
        return self
