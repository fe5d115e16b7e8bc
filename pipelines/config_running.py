"""The part of the configuration that says how a run goes: where, reusing what, within which limits.

Nothing here enters a plan's identity.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


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
            after its start.
        gpu_hours: GPUs of the cluster times hours since the start.
        usd: `usd_per_hour` times hours since the start.
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
    """What `nightrank nightly` checks before it publishes, against the generation that stands.

    Attributes:
        max_delete_fraction: share of the documents that one night may remove.
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


class Cluster(Section):
    """How and where the work runs; never changes a result.

    Attributes:
        executor: `ray` or `serial` (in this process).
        address: an existing Ray cluster; without it one is started on this machine.
        workers: worker processes for ordinary stages; 0 means one per two CPUs, at least 2.
        model_workers: worker processes that hold a model; 0 means as many as GPUs, or as CPUs.
        model_gpus: GPUs per model worker; by default 1 where the cluster has any, else 0.
        index_gpus: GPUs per worker that builds and searches indexes; by default 1 where the cluster
            has any and faiss-gpu is installed. At 0 these stages run on the ordinary workers.
        threads_per_worker: threads of torch and FAISS in one worker; 0 means an even share.
        attempts: how often a unit is tried before the stage fails.
        deadline_seconds: a unit is killed and tried elsewhere after ten times the median of its
            stage, but never before this. The default leaves a large unit on a slow CPU its time.
    """

    executor: Literal["ray", "serial"] = "ray"
    address: str | None = None
    workers: int = Field(default=0, ge=0)
    model_workers: int = Field(default=0, ge=0)
    model_gpus: float | None = Field(default=None, ge=0.0)
    index_gpus: float | None = Field(default=None, ge=0.0)
    threads_per_worker: int = Field(default=0, ge=0)
    attempts: int = Field(default=3, ge=1, le=20)
    deadline_seconds: float = Field(default=3600.0, gt=0.0)
