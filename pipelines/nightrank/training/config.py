"""The configuration of `nightrank train-reranker`: one YAML file is one training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from nightrank.config.values import Fraction, ModelName, Section, UserPath
from nightrank.errors import NightrankError
from nightrank.models.folders.files import file_digest


class TrainingCollection(Section):
    """A collection to train on; paths are relative to `data`.

    Attributes:
        name: names it in reports and work files.
        corpus: JSONL (.gz) or Parquet with `_id`, `title`, `text`.
        queries: JSONL (.gz) or Parquet with `_id`, `text`.
        qrels: TSV files with a header: query-id, corpus-id, score.
        teacher: Parquet (a file or a folder) with `query_id`, `doc_id` and a teacher's scores, as
            Nightrank publishes it; the groups are then made of its lists, and qrels only judge
            held-out queries.
        teacher_column: the column of the teacher's scores.
        weight: its share of the training groups.
        dev_queries: how many of its judged queries are held out.
        guard_ratio: see `nightrank.training.mining.mine`; null keeps every negative.
    """

    name: str
    corpus: UserPath
    queries: UserPath
    qrels: list[UserPath] = []
    teacher: UserPath | None = None
    teacher_column: str = "rerank_score"
    weight: float = Field(gt=0)
    dev_queries: int = Field(default=0, ge=0)
    guard_ratio: float | None = None

    @model_validator(mode="after")
    def _has_judgements_or_a_teacher(self) -> TrainingCollection:
        if not self.qrels and not self.teacher:
            raise ValueError("a collection needs qrels, or a teacher's scores")
        if self.dev_queries and not self.qrels:
            raise ValueError("dev_queries are judged queries: give qrels")
        return self


class ReportedSet(Section):
    """A set whose queries must not be trained on: queries, and the qrels that select them."""

    queries: UserPath
    qrels: UserPath


class TrainConfig(Section):
    """One training: what decides the weights, and where and how fast they are trained.

    Attributes:
        data: folder that the collections' paths start from.
        output: takes `model/` and `report.json`.
        work: keeps candidates and checkpoints, each under a name that says what they belong to, so
            trainings can share it; `<output>/work` by default.
        base: `builtin:minilm`, a folder, or a hub id with `revision`; `builtin:reranker`, or a
            folder that such a training wrote, continues from it with its head, rank and scale.
        head: `interaction`, the built-in reranker's, or `classifier`: transformers' own head on any
            encoder, written as a plain folder.
        encoder: the bi-encoder that retrieves candidates for mining.
        candidates_depth: candidates per query and list, for mining and for the final dev scores.
        bm25_weight: BM25's share in the first stage that dev scores are fused with; at 0 it is not
            mined either.
        first_stage_weight: what the model recommends for fusing its score with the first stage's;
            `auto` takes what was best on the held-out queries. Those are of kinds of text that it
            was trained on: for other texts a first stage deserves more.
        negative_pool: negatives kept per positive, hardest first, from both lists in turn.
        negatives: how many of them are drawn each time a group is used.
        loss: see `nightrank.training.losses`.
        teacher_temperature: what a teacher's scores are divided by.
        groups_per_step: groups of one optimiser step, over all workers.
        groups_per_pass: groups whose activations are in memory at once; gradients accumulate.
        learning_rate: the maximum; linear warm-up, then half a cosine to zero at `steps`.
        rank: of every linear layer's difference; 0 trains all weights but the embeddings.
        scale: factor of every low-rank product.
        token_budget: padded tokens of one forward batch.
        time_limit_s: stop with a checkpoint after this many seconds.
        checkpoint_every: steps between checkpoints; each scores the dev queries.
        checkpoint_dev_queries: dev queries of each collection that a checkpoint scores.
        checkpoint_dev_depth: candidates per query that a checkpoint scores.
        patience: stop after this many checkpoints without a better one; 0 trains all `steps`.
        workers: processes that train together through Ray Train; 0 trains in this one.
        gpus: whether each worker takes a GPU.
        address: an existing Ray cluster; `output` must then be on a file system that all share.
        threads: CPU threads of each process.
    """

    data: UserPath = "."
    output: UserPath
    work: UserPath | None = None
    base: ModelName = "builtin:minilm"
    revision: str | None = None
    head: Literal["interaction", "classifier"] = "interaction"
    encoder: ModelName = "builtin:minilm"
    encoder_revision: str | None = None
    encoder_precision: Literal["auto", "exact", "bf16"] = "exact"
    collections: list[TrainingCollection] = Field(min_length=1)
    reported: list[ReportedSet] = []
    candidates_depth: int = Field(default=100, ge=2)
    bm25_weight: Fraction = 0.3
    first_stage_weight: Literal["auto"] | Fraction = "auto"
    negative_pool: int = Field(default=50, ge=1)
    negatives: int = Field(default=6, ge=1)
    loss: Literal["listwise", "margin"] = "listwise"
    teacher_temperature: float = Field(default=1.0, gt=0)
    groups_per_step: int = Field(default=16, ge=1)
    groups_per_pass: int = Field(default=16, ge=1)
    steps: int = Field(ge=1)
    warmup_steps: int = Field(default=50, ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    rank: int = Field(default=64, ge=0)
    scale: float = Field(default=1.0, gt=0)
    max_length_tokens: int = Field(default=256, ge=16)
    token_budget: int = Field(default=3072, ge=16)
    bf16: bool = True
    seed: int = 0
    time_limit_s: float = Field(default=86_400.0, gt=0)
    checkpoint_every: int = Field(default=100, ge=1)
    checkpoint_dev_queries: int = Field(default=24, ge=1)
    checkpoint_dev_depth: int = Field(default=30, ge=2)
    patience: int = Field(default=0, ge=0)
    workers: int = Field(default=0, ge=0)
    gpus: bool = False
    address: str | None = None
    threads: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.patience and not any(part.dev_queries for part in self.collections):
            raise ValueError("patience needs dev_queries in a collection: they alone are measured")
        if self.head == "interaction" and not self.rank:
            raise ValueError("head: interaction takes a rank of at least 1")
        if self.head == "classifier" and self.base == "builtin:reranker":
            raise ValueError("base: builtin:reranker needs head: interaction")
        if len({part.name for part in self.collections}) < len(self.collections):
            raise ValueError("every collection needs a name of its own")
        return self

    @property
    def work_folder(self) -> Path:
        """The folder of candidates and checkpoints."""
        return Path(self.work or f"{self.output}/work")

    def semantic(self) -> dict[str, Any]:
        """What decides the trained weights, as plain data, without places and speed."""
        outside = {"data", "output", "work", "workers", "gpus", "address", "threads"}
        return self.model_dump(exclude={*outside, "time_limit_s", "first_stage_weight"})

    def inputs(self) -> dict[str, str]:
        """sha256 of every file that is read, by its path.

        Raises:
            NightrankError: E_CONFIG, where one is missing.
        """
        named = [path for part in self.reported for path in (part.queries, part.qrels)]
        for part in self.collections:
            named += [part.corpus, part.queries, *part.qrels]
            named += [part.teacher] if part.teacher else []
        digests: dict[str, str] = {}
        for name in sorted(set(named)):
            path = Path(self.data) / name
            files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
            try:
                digests |= {f"{name}#{file.name}": file_digest(file) for file in files}
            except OSError as error:
                what = f"cannot read: {error.strerror}"
                raise NightrankError(
                    "E_CONFIG", what, str(path), "correct data and its paths"
                ) from None
        return digests
