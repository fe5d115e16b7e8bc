"""What the parts of a run hand to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nightrank.generations.corpus import Corpus
from nightrank.generations.entries import IndexEntry
from nightrank.models.protocols import ResolvedModel
from nightrank.storage.dataset import Manifest


@dataclass(frozen=True)
class Rows:
    """One input, read and compared with what exists: `ingest` and `delta`."""

    ingested: Manifest
    changes: Manifest


@dataclass(frozen=True)
class Documents:
    """The corpus of this run, every segment embedded; `rows` is its input."""

    corpus: Corpus
    rows: Rows


@dataclass(frozen=True)
class Index:
    """A published index generation, its corpus, and the input that it was made of."""

    entry: IndexEntry
    corpus: Corpus
    rows: Rows


@dataclass(frozen=True)
class Queries:
    """The distinct queries of this run, tokenised and embedded; `terms` are BM25's."""

    rows: Rows
    distinct: Manifest
    embeddings: Manifest
    terms: Manifest | None


@dataclass(frozen=True)
class Step:
    """One rerank step, or none (`number` -1) where the first stage's lists are published.

    Attributes:
        number: from 0.
        name: of the step.
        model: the cross-encoder.
        depth: how many of a list's head are scored.
        weight: of the first stage in the fused score.
        next_depth: the next step's depth, 0 after the last.
        is_last: whether its lists are published.
    """

    number: int
    name: str
    model: ResolvedModel | None
    depth: int
    weight: float
    next_depth: int
    is_last: bool


@dataclass(frozen=True)
class Lists:
    """Lists of all queries, as far as they are ranked.

    Attributes:
        latest: `merge`'s, later `rank`'s manifest.
        candidates: `merge`'s.
        partials: `search`'s, which knows the recall.
        scores: `rerank`'s, by step, in bands of depth.
        precision: by step, what its precision changes in the best 10, as measured.
        reached: how deep the last step has scored, where less than its depth.
    """

    latest: Manifest
    candidates: Manifest
    partials: Manifest
    scores: tuple[tuple[Manifest, ...], ...] = ()
    precision: dict[str, dict[str, Any]] = field(default_factory=dict)
    reached: int | None = None
