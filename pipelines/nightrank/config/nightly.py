"""The part of the configuration for incremental runs: reuse, budget, gate.

Nothing here enters a plan's identity.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nightrank.config.values import (
    UNIT,
    Candidates,
    Dollars,
    Fraction,
    Runs,
    Section,
)


class Nightly(Section):
    """How incremental runs reuse earlier work, and when the index template is trained again.

    A new template has new word statistics and, for an approximate index, new lists, so it can
    change results by itself. It is trained again when one of `retrain_fraction`, `recall_floor` and
    `max_imbalance` is exceeded.
    """

    audit_nights: Runs = Field(
        default=30,
        ge=1,
        le=256,
        description="Every carried list is searched in full once in so many incremental runs, and "
        "compared with the updated list.",
    )
    store_files: int = Field(
        default=16,
        ge=1,
        le=1000,
        json_schema_extra={UNIT: "files"},
        description="Files of scores per document shard. When there are more, they are merged.",
    )
    max_segments: int = Field(
        default=8,
        ge=1,
        le=1000,
        json_schema_extra={UNIT: "segments"},
        description="Segments of the index. When there are more, the smallest are merged.",
    )
    max_dead_fraction: Fraction = Field(
        default=0.2,
        description="A segment with a larger share of tombstoned documents is merged without them.",
    )
    retrain_fraction: float = Field(
        default=0.5,
        ge=0.0,
        description="The index template and the statistics of BM25 are trained again when the "
        "documents added, changed and deleted since they were trained exceed this share of the "
        "documents that they were trained on.",
    )
    recall_floor: Fraction = Field(
        default=0.9,
        description="The index template is trained again when the recall of an approximate index, "
        "measured against an exact search with queries of an earlier run, is below this.",
    )
    max_imbalance: float = Field(
        default=4.0,
        ge=1.0,
        description="The index template is trained again when the lists of an IVF index shard are "
        "more uneven than this. 1 means all lists have one length.",
    )


class Budget(Section):
    """How long a run may work.

    At a limit, units in flight finish, all work is kept, and the run ends with exit code 10. The
    same command continues.
    """

    until: Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")] | None = Field(
        default=None,
        description="Time of day, `HH:MM`, by the clock of the machine that drives the run. The "
        "deadline is the first such time after the first run of a plan starts. It is recorded in "
        "the lake, and retries of the plan keep it.",
    )
    gpu_hours: float | None = Field(
        default=None,
        ge=0.0,
        json_schema_extra={UNIT: "GPU hours"},
        description="GPUs of the cluster times hours since the start. Failed attempts count.",
    )
    usd: Dollars | None = Field(
        default=None,
        ge=0.0,
        description="`usd_per_hour` times hours since the start. Failed attempts count.",
    )
    usd_per_hour: float | None = Field(
        default=None,
        gt=0.0,
        json_schema_extra={UNIT: "US dollars per hour"},
        description="Price of the whole cluster.",
    )
    rerank_first: list[Annotated[Candidates, Field(ge=1)]] = Field(
        default=[20, 50],
        description="With a limit, the last rerank step scores every list to the first of these "
        "depths, then every list to the next, and so on. A started run keeps its depths.",
    )
    on_budget: Literal["keep_previous", "publish_depth"] = Field(
        default="keep_previous",
        description="`keep_previous` publishes nothing until all pairs are scored. `publish_depth` "
        "publishes the deepest depth of `rerank_first` that is complete for all queries, and "
        "reports it.",
    )

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
    """Limits that `nightrank nightly` checks against the published generation.

    A run that exceeds one is not published and ends with exit code 11.
    """

    max_delete_fraction: Fraction = Field(
        default=0.2,
        description="Share of the published generation's documents that may be deleted. Before the "
        "first publication: of the newest index's documents.",
    )
    max_withdrawn_queries: Fraction = Field(
        default=0.2,
        description="Share of the published generation's queries that the input may no longer "
        "hold.",
    )
    max_lost_queries: Fraction = Field(
        default=0.01,
        description="Share of the queries in both generations that may have lost their list.",
    )
    min_overlap: Fraction = Field(
        default=0.5,
        description="Least mean rank-biased overlap (p = 0.9) of the old and the new published "
        "lists.",
    )
    max_measure_drop: Fraction = Field(
        default=0.02,
        description="By how much the mean of the first of `evaluate.measures` may fall. Checked if "
        "`evaluate.qrels` is set.",
    )
    max_reject_rate: Fraction = Field(
        default=0.01,
        description="Share of the rows of documents and queries that may be rejected.",
    )
    max_differing_lists: int = Field(
        default=0,
        ge=0,
        json_schema_extra={UNIT: "lists"},
        description="Carried lists that may differ from a search in full. See "
        "`nightly.audit_nights`.",
    )
