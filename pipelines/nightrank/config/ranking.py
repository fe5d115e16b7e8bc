"""The part of the configuration that decides the lists: encoder, index, first stage, reranking."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from nightrank.config.values import (
    UNIT,
    Bytes,
    Candidates,
    Documents,
    Fraction,
    ModelName,
    Name,
    Section,
    Tokens,
)

Precision = Literal["auto", "exact", "bf16"]


class Encoder(Section):
    """The bi-encoder, which embeds documents and queries."""

    model: ModelName = Field(
        default="builtin:minilm",
        description="`builtin:minilm`, `toy:bag-of-words` for trials, a local folder, or a Hugging "
        "Face hub id with its `revision`.",
    )
    revision: str | None = Field(
        default=None, description="Commit of a hub id, 40 hexadecimal digits. Required for one."
    )
    precision: Precision = Field(
        default="exact",
        description="`exact` computes in fp32, `bf16` in bf16, `auto` in bf16 where the hardware "
        "has it: about twice as fast on a CPU, but candidates at the edge of a list change (R@100 "
        "on SciFact 0.9217, in fp32 0.9250).",
    )
    max_length_tokens: Tokens | None = Field(
        default=None,
        ge=8,
        le=131072,
        description="Longer texts are cut. Without it the model's own limit.",
    )
    dimension: int | None = Field(
        default=None,
        ge=1,
        le=65536,
        json_schema_extra={UNIT: "components"},
        description="Vectors are cut to this dimension, for models that were trained for it. "
        "Without it the model's own.",
    )
    query_prompt: str | None = Field(
        default=None,
        description="Text before every query. Without it the model's own prompt.",
    )
    document_prompt: str | None = Field(
        default=None,
        description="Text before every document. Without it the model's own prompt.",
    )


class Index(Section):
    """The FAISS index."""

    factory: str = Field(
        default="auto",
        min_length=1,
        description="`auto` or any FAISS factory string, e.g. `IVF4096,PQ64`. `auto` is `Flat` for "
        "up to `flat_rows` documents and, where FAISS has a GPU, for depths up to 1,024; else the "
        "fastest of several forms whose measured recall reaches `recall_target`.",
    )
    search_parameters: str = Field(
        default="", description="FAISS parameter string for searching, e.g. `nprobe=32`."
    )
    train_rows: Documents = Field(
        default=262_144, ge=1, description="At most so many vectors are sampled for training."
    )
    recall_target: Fraction = Field(
        default=0.98,
        description="Recall at `retrieve.depth`, against an exact search, that `auto` must reach.",
    )
    flat_rows: Documents = Field(
        default=50_000, ge=1, description="`auto` searches so many documents exactly."
    )
    shard_bytes: Bytes = Field(
        default=8 << 30,
        ge=1,
        description="Vectors of one index shard, which consists of whole document shards.",
    )


class Bm25(Section):
    """BM25 beside the vectors. Its word statistics are frozen with the index template."""

    weight: float = Field(
        default=0.3,
        ge=0.0,
        lt=1.0,
        allow_inf_nan=False,
        description="w in `score = (1-w)*z(dense score) + w*z(BM25 score)`, where z standardises "
        "over the query's best `depth` documents by either score. 0 searches vectors alone.",
    )
    k1: float = Field(
        default=0.9,
        ge=0.0,
        allow_inf_nan=False,
        description="How much repetitions of a term count: 0 not at all.",
    )
    b: Fraction = Field(
        default=0.4, description="How much the score of long documents is reduced: 0 not at all."
    )
    language: str = Field(
        default="english",
        description="Language of the Snowball stemmer. `english` also drops stop words, `none` "
        "does neither.",
    )


class Retrieve(Section):
    """The first stage: which candidates a query gets."""

    depth: Candidates = Field(
        default=100, ge=1, le=10_000, description="Candidates that the first stage keeps."
    )
    bm25: Bm25 = Bm25()


class RerankStep(Section):
    """A rerank step, or a list of at most 8: each rescores the head of the list before it."""

    name: Name = Field(
        default="rerank",
        description="Name of the step. Each of several steps has a column `<name>_score`; without "
        "names they are `step1`, `step2` and so on.",
    )
    model: ModelName = Field(
        default="builtin:reranker",
        description="`builtin:reranker`, `toy:overlap` for trials, a local folder, or a Hugging "
        "Face hub id with its `revision`. The model is a cross-encoder with one label.",
    )
    revision: str | None = Field(
        default=None, description="Commit of a hub id, 40 hexadecimal digits. Required for one."
    )
    precision: Precision = Field(
        default="auto",
        description="`exact` computes in fp32, `bf16` in bf16, `auto` in bf16 where the hardware "
        "has it.",
    )
    max_length_tokens: Tokens | None = Field(
        default=None,
        ge=8,
        le=131072,
        description="Longer pairs are cut. Without it the model's own limit.",
    )
    depth: Candidates = Field(
        default=100,
        ge=1,
        le=10_000,
        description="How many candidates at the head of the list are rescored; at most the depth "
        "of the step before, or `retrieve.depth`.",
    )
    first_stage_weight: Literal["auto"] | Fraction = Field(
        default="auto",
        description="w in `score = w*z(first_stage_score) + (1-w)*z(rerank_score)`, where z "
        "standardises over the query's rescored candidates. At 0 the score is the raw rerank "
        "score. `auto` is the weight that the model recommends, for models without one 0.",
    )
    unit_tokens: Literal["auto"] | Annotated[Tokens, Field(ge=1)] = Field(
        default="auto",
        description="Estimated tokens (query and document) of one unit. `auto` is what the model "
        "scores in a minute on a CPU core or a GPU (`builtin:reranker`: 500,000 on a core), less "
        "(to 7 seconds) where there would be under 64 units, more where there would be over 8,192. "
        "It changes the plan because the batch of a pair affects the low bits of a bf16 score.",
    )


def _as_steps(value: Any) -> Any:
    """A step, or a list of steps; several without names are `step1`, `step2` and so on."""
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list) or len(value) < 2:
        return value
    numbered = enumerate(value, start=1)
    return [{"name": f"step{i}", **s} if isinstance(s, dict) else s for i, s in numbered]


OneOrMore = RerankStep | Annotated[list[RerankStep], Field(max_length=8)]
Steps = Annotated[list[RerankStep], BeforeValidator(_as_steps, json_schema_input_type=OneOrMore)]
