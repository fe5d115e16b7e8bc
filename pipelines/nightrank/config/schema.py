"""The configuration: one YAML file is one whole experiment.

Every section is a frozen, strict model: unknown keys, wrong types and values out of range are
errors that name the file, the key and the line. Nothing is read from the environment and nothing
is included from other files. Descriptions of keys are written for users: `reference` makes
docs/configuration.md and the editors' schema of them.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from nightrank.config import column_names
from nightrank.config.inputs import CREDENTIALS
from nightrank.config.inputs import ColumnType as ColumnType
from nightrank.config.inputs import Corpus as Corpus
from nightrank.config.inputs import Queries as Queries
from nightrank.config.inputs import Source as Source
from nightrank.config.keys import unknown_names
from nightrank.config.ranking import Bm25 as Bm25
from nightrank.config.ranking import Encoder, Retrieve, Steps
from nightrank.config.ranking import Index as Index
from nightrank.config.ranking import RerankStep as RerankStep
from nightrank.config.redaction import SECRET_NAME
from nightrank.config.running import Budget, Cluster, Gate, Nightly, Search
from nightrank.config.values import (
    PLAN,
    UNIT,
    Candidates,
    Name,
    Section,
    UserPath,
)


class Results(Section):
    """What is published."""

    keep: Candidates = Field(
        default=10,
        ge=1,
        le=10_000,
        description="Length of the published lists. `evaluate` reads the full depth.",
    )
    document_columns: list[str] = Field(
        default=[],
        description="`title`, `text` or attributes of the corpus to repeat in every ranked row. "
        "Costs a read of these columns of the corpus.",
    )


class Evaluate(Section):
    """Judgements and measures."""

    qrels: UserPath | None = Field(
        default=None,
        json_schema_extra={PLAN: "through its content, with `queries.only_judged`"},
        description="Judgements in TREC or BEIR format, or Parquet.",
    )
    measures: list[str] = Field(
        default=["nDCG@10", "RR@10", "R@100"],
        min_length=1,
        description="Measures by their names in ir-measures. The gate checks the first.",
    )


class Layout(Section):
    """Rows per shard. The defaults follow from the number of rows and rarely need a change."""

    document_shard_rows: int | None = Field(
        default=None,
        ge=1,
        le=1 << 31,
        json_schema_extra={UNIT: "documents"},
        description="Documents of one shard.",
    )
    query_shard_rows: int | None = Field(
        default=None,
        ge=1,
        le=1 << 31,
        json_schema_extra={UNIT: "queries"},
        description="Queries of one shard.",
    )


class PipelineConfig(Section):
    """Configuration of a Nightrank experiment: what is ranked, by which models, and how it runs."""

    name: Name = Field(description="Name of the experiment, and of its folder in the lake.")
    root: UserPath = Field(
        description="The lake: a folder or `s3://bucket/prefix`. It must not be inside an input."
    )
    storage_options: dict[str, Any] = Field(
        default={},
        description="Options of s3fs, e.g. `{endpoint_url: http://minio:9000}`. Credentials are "
        "refused here; they come from the AWS credentials chain.",
    )
    corpus: Corpus
    queries: Queries
    encoder: Encoder = Encoder()
    index: Index = Index()
    retrieve: Retrieve = Retrieve()
    rerank: Steps = Field(default=[RerankStep()], max_length=8)
    results: Results = Results()
    evaluate: Evaluate = Evaluate()
    layout: Layout = Layout()
    search: Search = Search()
    nightly: Nightly = Nightly()
    budget: Budget = Budget()
    gate: Gate = Gate()
    cluster: Cluster = Cluster()

    @model_validator(mode="after")
    def _consistent(self) -> PipelineConfig:
        depth, of = self.retrieve.depth, "retrieve.depth"
        for i, step in enumerate(self.rerank):
            key = f"rerank[{i}].depth" if len(self.rerank) > 1 else "rerank.depth"
            if step.depth > depth:
                raise ValueError(f"{key} = {step.depth} exceeds {of} = {depth}")
            depth, of = step.depth, key
        steps = [step.name for step in self.rerank]
        column_names.check_steps(steps)
        if len(steps) > 1:
            for section, source in (("corpus", self.corpus), ("queries", self.queries)):
                try:
                    column_names.check_attributes(source.attributes, steps=steps)
                except ValueError as error:
                    raise ValueError(f"{section}.{error}") from None
        if self.queries.only_judged and not self.evaluate.qrels:
            raise ValueError("queries.only_judged needs evaluate.qrels")
        known, columns = {"title", "text", *self.corpus.attributes}, self.results.document_columns
        if unknown := set(columns) - known:
            raise ValueError(f"results.document_columns: {unknown_names(unknown, known)}")
        if repeated := sorted({name for name in columns if columns.count(name) > 1}):
            raise ValueError(f"results.document_columns: {repeated} more than once; name each once")
        places = {"root": self.root, "evaluate.qrels": self.evaluate.qrels}
        places["cluster.address"] = self.cluster.address
        for key, value in [*places.items(), *_leaves(self.storage_options, "storage_options")]:
            if SECRET_NAME.search(key) or CREDENTIALS.match(str(value)):
                raise ValueError(
                    f"{key}: secrets do not belong in a config; use the AWS credentials chain"
                )
        return self

    def semantic(self) -> dict[str, Any]:
        """The part that can change a result, as plain data; it enters a plan's identity.

        Returns:
            The configuration without name, root, storage options, cluster, search, evaluation,
            budget and gate, without input paths (inputs are identified by their files), and without
            keys that only decide whether an input is refused.
        """
        outside = {"name", "root", "storage_options", "cluster", "search", "evaluate"}
        plain = self.model_dump(mode="json", exclude=outside | {"nightly", "budget", "gate"})
        for source in ("corpus", "queries"):
            for key in ("path", "ignore", "reject_budget", "allow_empty"):
                plain[source].pop(key)
        plain["corpus"].pop("partitions")
        return plain


def _leaves(value: Any, path: str) -> list[tuple[str, Any]]:
    """Dotted keys and values of nested options."""
    if isinstance(value, dict):
        return [leaf for k, v in value.items() for leaf in _leaves(v, f"{path}.{k}")]
    if isinstance(value, list):
        return [leaf for v in value for leaf in _leaves(v, path)]
    return [(path, value)]
