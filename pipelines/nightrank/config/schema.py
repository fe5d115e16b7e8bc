"""The configuration: one YAML file is one whole experiment.

Every section is a frozen, strict model: unknown keys, wrong types and values out of range are
errors that name the file, the key and the line. Nothing is read from the environment and nothing
is included from other files. `config_inputs` has the inputs. `config_running` has the settings of
execution, which enter no fingerprint; all others decide what is computed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from nightrank.config import column_names
from nightrank.config.inputs import CREDENTIALS
from nightrank.config.inputs import ColumnType as ColumnType
from nightrank.config.inputs import Corpus as Corpus
from nightrank.config.inputs import Queries as Queries
from nightrank.config.inputs import Source as Source
from nightrank.config.keys import unknown_names
from nightrank.config.redaction import SECRET_NAME
from nightrank.config.running import (
    Budget,
    Cluster,
    Fraction,
    Gate,
    ModelName,
    Nightly,
    Search,
    Section,
    UserPath,
)

Precision = Literal["auto", "exact", "bf16"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,127}$")]


class Encoder(Section):
    """The bi-encoder: `builtin:minilm`, `toy:bag-of-words`, a local folder or a hub id.

    Attributes:
        revision: 40-hex commit; required for a hub id.
        precision: `exact` is fp32, `auto` is bf16 where the hardware has it: about twice as fast on
            a CPU, but documents at the edge of a list change (R@100 on SciFact 0.9217 against
            0.9250), and the first stage sets the ceiling.
    """

    model: ModelName = "builtin:minilm"
    revision: str | None = None
    precision: Precision = "exact"
    max_length_tokens: int | None = Field(default=None, ge=8, le=131072)
    dimension: int | None = Field(default=None, ge=1, le=65536)
    query_prompt: str | None = None
    document_prompt: str | None = None


class Index(Section):
    """The FAISS index.

    Attributes:
        factory: any FAISS factory string, or `auto`: Flat up to `flat_rows` documents and, for
            depths up to 1,024, where FAISS has a GPU; else the fastest of a few forms whose
            measured recall reaches `recall_target`.
        search_parameters: FAISS parameter string for searching, e.g. `nprobe=32`.
        train_rows: at most this many vectors are sampled for training.
        recall_target: recall@depth against exact search that `auto` must reach.
        shard_bytes: an index shard is a run of whole document shards up to this many vector bytes.
    """

    factory: str = Field(default="auto", min_length=1)
    search_parameters: str = ""
    train_rows: int = Field(default=262_144, ge=1)
    recall_target: Fraction = 0.98
    flat_rows: int = Field(default=50_000, ge=1)
    shard_bytes: int = Field(default=8 << 30, ge=1)


class Bm25(Section):
    """BM25 beside the vectors; its statistics are frozen with the index template.

    Attributes:
        weight: w in `score = (1-w)*z(dense score) + w*z(BM25 score)`, z within the query's best
            `depth` by either; 0 searches vectors alone.
        k1: how slowly a repeated term stops counting.
        b: how much long documents are held back.
        language: of the Snowball stemmer; `english` also drops stop words, `none` does neither.
    """

    weight: float = Field(default=0.3, ge=0.0, lt=1.0, allow_inf_nan=False)
    k1: float = Field(default=0.9, ge=0.0, allow_inf_nan=False)
    b: Fraction = 0.4
    language: str = "english"


class Retrieve(Section):
    """First stage: how many candidates per query are kept, and by what they are found."""

    depth: int = Field(default=100, ge=1, le=10_000)
    bm25: Bm25 = Bm25()


class RerankStep(Section):
    """One reranking step; a later step rescores the head of the earlier one's list.

    Attributes:
        name: of several steps each has a column `<name>_score`; without a name they are `step1`,
            `step2` and so on, and a single one is `rerank`.
        depth: how many of the list's head are rescored.
        first_stage_weight: w in `score = w*z(first_stage_score) + (1-w)*z(rerank_score)`, z within
            the query's rescored list. `auto` takes what the model recommends (0 unless built in);
            at 0 the score is the raw rerank score.
        unit_tokens: predicted tokens (query + document) of one unit of work; `auto` is a minute of
            the model on a CPU core or a GPU (the built-in one: 500,000 tokens on a core), less (to
            7 s) where that would make under 64 units, more where it would make over 8,192. Part of
            the identity: what is in a batch reaches the low bits of bf16 scores.
    """

    name: Name = "rerank"
    model: ModelName = "builtin:reranker"
    revision: str | None = None
    precision: Precision = "auto"
    max_length_tokens: int | None = Field(default=None, ge=8, le=131072)
    depth: int = Field(default=100, ge=1, le=10_000)
    first_stage_weight: Literal["auto"] | Fraction = "auto"
    unit_tokens: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"


class Results(Section):
    """What is published.

    Attributes:
        keep: results per query in the published rows (`evaluate` reads the full depth).
        document_columns: `title`, `text` or corpus attributes to repeat in every ranked row; costs
            a read of those columns of the corpus.
    """

    keep: int = Field(default=10, ge=1, le=10_000)
    document_columns: list[str] = []


class Evaluate(Section):
    """Judgements and measures (ir-measures names, e.g. `nDCG@10`, `RR@10`, `R@100`)."""

    qrels: UserPath | None = None
    measures: list[str] = Field(default=["nDCG@10", "RR@10", "R@100"], min_length=1)


class Layout(Section):
    """Rows per shard; the defaults follow from the number of rows and are rarely changed."""

    document_shard_rows: int | None = Field(default=None, ge=1, le=1 << 31)
    query_shard_rows: int | None = Field(default=None, ge=1, le=1 << 31)


def _as_steps(value: Any) -> Any:
    """One step or several; of several, those without a name are `step1`, `step2` and so on."""
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list) or len(value) < 2:
        return value
    numbered = enumerate(value, start=1)
    return [{"name": f"step{i}", **s} if isinstance(s, dict) else s for i, s in numbered]


class PipelineConfig(Section):
    """The whole experiment, sections in pipeline order."""

    name: Name
    root: UserPath
    storage_options: dict[str, Any] = {}
    corpus: Corpus
    queries: Queries
    encoder: Encoder = Encoder()
    index: Index = Index()
    retrieve: Retrieve = Retrieve()
    rerank: Annotated[list[RerankStep], BeforeValidator(_as_steps)] = Field(
        default=[RerankStep()], max_length=8
    )
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
        """The part that can change a result, as plain data.

        Returns:
            A dict without name, root, storage options, cluster, search and evaluation, without the
            input paths (inputs are identified by what they hold) and without what only decides
            whether an input is refused.
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
