"""The interfaces of models, and the record that identifies one model."""

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
    """Texts to vectors; queries and documents may be encoded differently.

    Attributes:
        dimension: width of the vectors.
    """

    dimension: int

    def encode(self, tokens: Tokens, kind: Kind) -> NDArray[np.float32]:
        """float32 [n, dimension] in the order of `tokens`; of unit length if the model says so."""
        ...


@runtime_checkable
class CrossEncoder(Protocol):
    """Pairs of texts to relevance scores."""

    def score(
        self, queries: Tokens, documents: Tokens, pairs: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Scores a whole unit, which the model orders and batches itself.

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
        model: its name in the configuration.
        role: bi-encoder or cross-encoder.
        family: which implementation runs it.
        path: the local folder with its files, "" for toys. Differs between machines and is
            therefore not part of the identity.
        digest: sha256 over the files that it is loaded from.
        precision: arithmetic of the encoder, never "auto".
        max_length_tokens: tokens of one input (a pair for a cross-encoder), special ones counted.
        tokenizer: identifies how texts become tokens; models with equal ones share stored tokens.
        dimension: width of a bi-encoder's vectors, 0 for a cross-encoder.
        normalize: whether the vectors have unit length, their dot product then being their cosine.
        query_prompt: put before every query, also by a cross-encoder.
        document_prompt: put before every document.
        recommended_first_stage_weight: share of the first stage in the fused score; 0 where the
            model recommends none.
        revision: the hub commit, "" elsewhere.
        stored: the lake's dataset of its files, "" for toys and built-in models; not part of the
            identity either.
        minute_tokens: tokens that a worker of the planned kind processes in a minute, roughly;
            it decides the size of units. Part of a plan's identity, not of the model's.
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
        """What enters fingerprints: everything but the place of its files and its speed."""
        excluded = ("path", "stored", "minute_tokens")
        return {name: value for name, value in asdict(self).items() if name not in excluded}

    def to_dict(self) -> dict[str, Any]:
        """All attributes, JSON-able."""
        return asdict(self)

    @staticmethod
    def from_dict(plain: dict[str, Any]) -> ResolvedModel:
        """The inverse of `to_dict`."""
        return ResolvedModel(**plain)
