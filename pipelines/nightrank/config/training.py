"""The configuration of `nightrank train-reranker`: one YAML file is one whole training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from nightrank.config.values import (
    UNIT,
    Candidates,
    Fraction,
    ModelName,
    Seconds,
    Section,
    Tokens,
    UserPath,
)


class TrainingCollection(Section):
    """The collections to train on, at least one. Their paths are relative to `data`."""

    name: str = Field(description="Name of the collection in reports and work files.")
    corpus: UserPath = Field(
        description="Documents: JSONL, plain or `.gz`, or Parquet, with `_id`, `title`, `text`."
    )
    queries: UserPath = Field(
        description="Queries: JSONL, plain or `.gz`, or Parquet, with `_id`, `text`."
    )
    qrels: list[UserPath] = Field(
        default=[],
        description="Judgements: TSV files with the header `query-id`, `corpus-id`, `score`. A "
        "collection needs them or a `teacher`.",
    )
    teacher: UserPath | None = Field(
        default=None,
        description="A teacher's scores: a Parquet file or folder with `query_id`, `doc_id` and a "
        "score, as Nightrank publishes it. Training groups then come from its lists, and `qrels` "
        "only judges held-out queries.",
    )
    teacher_column: str = Field(
        default="rerank_score", description="Column of the teacher's scores."
    )
    weight: float = Field(gt=0, description="Share of the training groups, relative to the others.")
    dev_queries: int = Field(
        default=0,
        ge=0,
        json_schema_extra={UNIT: "queries"},
        description="Judged queries that are held out of training. They choose the checkpoint and "
        "the first stage's weight.",
    )
    guard_ratio: float | None = Field(
        default=None,
        description="A guard against false negatives: an unjudged document is not drawn as a "
        "negative if its dense score reaches this share of the positive's. Without it every "
        "unjudged document may be drawn.",
    )

    @model_validator(mode="after")
    def _has_judgements_or_a_teacher(self) -> TrainingCollection:
        if not self.qrels and not self.teacher:
            raise ValueError("a collection needs qrels, or a teacher's scores")
        if self.dev_queries and not self.qrels:
            raise ValueError("dev_queries are judged queries: give qrels")
        return self


class ReportedSet(Section):
    """Sets of queries that must not be trained on, because a measure on them is reported.

    Near duplicates of their queries are dropped from training and counted.
    """

    queries: UserPath = Field(description="Queries, as in `collections`.")
    qrels: UserPath = Field(description="Judgements, which select the queries of the set.")


class TrainConfig(Section):
    """Configuration of a training: what is trained on what, and how."""

    data: UserPath = Field(
        default=".", description="Folder that paths of `collections` and `reported` start from."
    )
    output: UserPath = Field(description="Folder that takes `model/` and `report.json`.")
    work: UserPath | None = Field(
        default=None,
        description="Folder of candidates and checkpoints, which trainings may share. Without it "
        "`<output>/work`.",
    )
    base: ModelName = Field(
        default="builtin:minilm",
        description="Model to start from: `builtin:minilm`, a local folder, or a hub id with its "
        "`revision`. `builtin:reranker`, or a folder that an earlier training wrote, is trained "
        "further, with its head, rank and scale.",
    )
    revision: str | None = Field(
        default=None, description="Commit of a hub id, 40 hexadecimal digits. Required for one."
    )
    head: Literal["interaction", "classifier"] = Field(
        default="interaction",
        description="`interaction` is the head of the bundled reranker. `classifier` is the head "
        "of transformers for any encoder; the model is written as a plain folder.",
    )
    encoder: ModelName = Field(
        default="builtin:minilm",
        description="Bi-encoder that retrieves the candidates from which negatives are mined.",
    )
    encoder_revision: str | None = Field(
        default=None, description="Commit of the encoder's hub id. Required for one."
    )
    encoder_precision: Literal["auto", "exact", "bf16"] = Field(
        default="exact", description="Precision of the encoder, as `encoder.precision` of a run."
    )
    collections: list[TrainingCollection] = Field(min_length=1)
    reported: list[ReportedSet] = []
    candidates_depth: Candidates = Field(
        default=100,
        ge=2,
        description="Candidates by vectors and by BM25, for mining and for the final scores of "
        "held-out queries.",
    )
    bm25_weight: Fraction = Field(
        default=0.3,
        description="Weight of BM25 in the first stage that held-out scores are fused with. At 0 "
        "negatives are not mined from BM25 either.",
    )
    first_stage_weight: Literal["auto"] | Fraction = Field(
        default="auto",
        description="Weight that the model recommends for `rerank.first_stage_weight`. `auto` is "
        "the best one on the held-out queries, which are like the training queries; for other "
        "texts a larger weight is better.",
    )
    negative_pool: int = Field(
        default=50,
        ge=1,
        json_schema_extra={UNIT: "documents per positive"},
        description="Negatives that are kept, the hardest first, from both lists in turn.",
    )
    negatives: int = Field(
        default=6,
        ge=1,
        json_schema_extra={UNIT: "documents per group"},
        description="Negatives that are drawn from the pool each time a group is used.",
    )
    loss: Literal["listwise", "margin"] = Field(
        default="listwise",
        description="`listwise` is the softmax cross-entropy over a group. `margin` is a hinge "
        "loss on judgements, and MarginMSE on a teacher's scores.",
    )
    teacher_temperature: float = Field(
        default=1.0, gt=0, description="Divisor of a teacher's scores."
    )
    groups_per_step: int = Field(
        default=16,
        ge=1,
        json_schema_extra={UNIT: "groups"},
        description="Groups of one optimiser step, over all workers. A group is a query with one "
        "positive and its negatives.",
    )
    groups_per_pass: int = Field(
        default=16,
        ge=1,
        json_schema_extra={UNIT: "groups"},
        description="Groups whose activations are in memory at once. Gradients accumulate.",
    )
    steps: int = Field(ge=1, json_schema_extra={UNIT: "steps"}, description="Length of training.")
    warmup_steps: int = Field(
        default=50,
        ge=1,
        json_schema_extra={UNIT: "steps"},
        description="Steps in which the learning rate rises to `learning_rate`.",
    )
    learning_rate: float = Field(
        gt=0,
        description="Highest learning rate. After the warm-up it falls to zero, as half a cosine.",
    )
    weight_decay: float = Field(default=0.01, ge=0, description="Weight decay of AdamW.")
    rank: int = Field(
        default=64,
        ge=0,
        description="Rank of the low-rank change of every linear layer. 0 trains all weights "
        "except the embeddings, with `head: classifier`.",
    )
    scale: float = Field(default=1.0, gt=0, description="Factor of every low-rank change.")
    max_length_tokens: Tokens = Field(default=256, ge=16, description="Longer pairs are cut.")
    token_budget: Tokens = Field(
        default=3072, ge=16, description="Tokens of one forward batch, padding included."
    )
    bf16: bool = Field(default=True, description="Whether forward passes compute in bf16.")
    seed: int = Field(default=0, description="Seed of all random choices.")
    time_limit_s: Seconds = Field(
        default=86_400.0,
        gt=0,
        description="After this time training ends with a checkpoint. The same command continues.",
    )
    checkpoint_every: int = Field(
        default=100,
        ge=1,
        json_schema_extra={UNIT: "steps"},
        description="Steps between checkpoints. At each the held-out queries are evaluated.",
    )
    checkpoint_dev_queries: int = Field(
        default=24,
        ge=1,
        json_schema_extra={UNIT: "queries per collection"},
        description="Held-out queries that are evaluated at a checkpoint.",
    )
    checkpoint_dev_depth: Candidates = Field(
        default=30, ge=2, description="Candidates that are scored at a checkpoint."
    )
    patience: int = Field(
        default=0,
        ge=0,
        json_schema_extra={UNIT: "checkpoints"},
        description="Training ends after so many checkpoints without a better one. 0 trains all "
        "`steps`.",
    )
    workers: int = Field(
        default=0,
        ge=0,
        json_schema_extra={UNIT: "processes"},
        description="Processes that train together through Ray Train. 0 trains in this process.",
    )
    gpus: bool = Field(default=False, description="Whether each worker takes a GPU.")
    address: str | None = Field(
        default=None,
        description="Address of an existing Ray cluster. `output` must then be on a file system "
        "that all nodes share.",
    )
    threads: int = Field(
        default=2,
        ge=1,
        json_schema_extra={UNIT: "threads"},
        description="CPU threads of each process.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.patience and not any(part.dev_queries for part in self.collections):
            raise ValueError("patience needs dev_queries in a collection: they alone are measured")
        if self.head == "interaction" and not self.rank:
            raise ValueError("rank: expected at least 1 with head: interaction, found 0")
        if self.head == "classifier" and self.base == "builtin:reranker":
            raise ValueError("base: builtin:reranker needs head: interaction")
        if len({part.name for part in self.collections}) < len(self.collections):
            raise ValueError("collections: expected different names, found one twice")
        return self

    @property
    def work_folder(self) -> Path:
        """Folder of candidates and checkpoints."""
        return Path(self.work or f"{self.output}/work")

    def semantic(self) -> dict[str, Any]:
        """The keys that can change the trained weights, as plain data."""
        outside = {"data", "output", "work", "workers", "gpus", "address", "threads"}
        return self.model_dump(exclude={*outside, "time_limit_s", "first_stage_weight"})
