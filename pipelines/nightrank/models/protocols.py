"""What the pipeline asks of a model, and the record that says exactly which model it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightrank.storage.tokens import Tokens

Kind = Literal["query", "document"]
Role = Literal["bi_encoder", "cross_encoder"]
Family = Literal["toy", "minilm", "sentence_transformers", "sequence_classification"]
Precision = Literal["fp32", "bf16"]


@runtime_checkable
class Tokenizer(Protocol):
    """Texts to token ids without special tokens."""

    def __call__(self, texts: Sequence[str] | pa.StringArray) -> Tokens:
        """One row per text, in order, each cut to the tokenizer's cap."""
        ...


@runtime_checkable
class BiEncoder(Protocol):
    """Texts to vectors, queries and documents apart.

    Attributes:
        dimension: width of the vectors.
    """

    dimension: int

    def encode(self, tokens: Tokens, kind: Kind) -> NDArray[np.float32]:
        """float32 [n, dimension] in the order given, L2-normalised where the model says so."""
        ...


@runtime_checkable
class CrossEncoder(Protocol):
    """Pairs of texts to relevance scores."""

    def score(
        self, queries: Tokens, documents: Tokens, pairs: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Scores a whole unit, so that the model can order and batch it as suits it.

        Args:
            queries: distinct queries.
            documents: distinct documents.
            pairs: int32 [n, 2], (row in queries, row in documents).

        Returns:
            float32 [n], raw outputs (logits, no sigmoid), in the order of `pairs`.
        """
        ...


@dataclass(frozen=True)
class ResolvedModel:
    """Everything about a model that can change an output, fixed once at planning.

    Attributes:
        model: the string in the configuration.
        role: what it is used as.
        family: which implementation runs it.
        path: the local folder with its files, "" for toys. Differs between machines and is
            therefore no part of the identity.
        digest: sha256 over the files that matter.
        precision: arithmetic of the encoder, never "auto".
        max_length_tokens: tokens of one input (a pair for a cross-encoder), special ones counted.
        tokenizer: names how tokens are made; models with equal names share stored tokens.
        dimension: width of a bi-encoder's vectors, 0 for a cross-encoder.
        normalize: whether the vectors have unit length, their dot product then being their cosine.
        query_prompt: put before every query, by a cross-encoder too.
        document_prompt: put before every document.
        recommended_first_stage_weight: share of the first stage in the fused score; 0 where the
            model recommends none.
        revision: the hub commit, "" elsewhere.
        stored: the lake's dataset of its files, "" for toys and built-in models; no part of the
            identity either.
        minute_tokens: what a worker of the planned kind puts through in a minute, about; units are
            cut by it. A part of a plan's identity, none of the model's.
    """

    model: str
    role: Role
    family: Family
    path: str
    digest: str
    precision: Precision
    max_length_tokens: int
    tokenizer: str
    dimension: int = 0
    normalize: bool = False
    query_prompt: str = ""
    document_prompt: str = ""
    recommended_first_stage_weight: float = 0.0
    revision: str = ""
    stored: str = ""
    minute_tokens: int = 500_000

    def identity(self) -> dict[str, Any]:
        """What enters fingerprints: all but where its files lie and how fast it is."""
        others = ("path", "stored", "minute_tokens")
        return {name: value for name, value in asdict(self).items() if name not in others}

    def to_dict(self) -> dict[str, Any]:
        """All attributes, JSON-able."""
        return asdict(self)

    @staticmethod
    def from_dict(plain: dict[str, Any]) -> ResolvedModel:
        """The inverse of `to_dict`."""
        return ResolvedModel(**plain)
