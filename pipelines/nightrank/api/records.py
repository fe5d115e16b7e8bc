"""The parts of a result: counts, measures, the gate's verdict, effects of precision and cuts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nightrank.generations.gate import Finding


@dataclass(frozen=True)
class Work:
    """What a run had to do, and how much of it was new.

    Attributes:
        documents_in: rows of the corpus, as they were read when it was last indexed.
        documents_added: documents that the index did not have.
        documents_changed: documents with another text or other attributes than in the index.
        documents_removed: documents that are no longer in the corpus.
        documents_embedded: documents that the encoder ran on.
        queries_in: rows read from the queries.
        pairs_needed: (query, document) pairs of all rerank steps to their depths.
        pairs_reused: of them, pairs whose scores an earlier run computed.
        pairs_scored: of them, pairs that a reranker scored in this run.
        files_left_out: files of `corpus` and `queries` that were not read, counted by reason.
    """

    documents_in: int
    documents_added: int
    documents_changed: int
    documents_removed: int
    documents_embedded: int
    queries_in: int
    pairs_needed: int
    pairs_reused: int
    pairs_scored: int
    files_left_out: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Counts:
    """Every row of a generation, accounted for.

    Attributes:
        documents: `in`, and what became of them: `indexed`, `rejected`, `superseded` and so on.
        queries: `in`, and what became of them: `ranked`, `no_candidates`, `rejected` and so on.
        rows: rows of each published table.
    """

    documents: Mapping[str, int]
    queries: Mapping[str, int]
    rows: Mapping[str, int]


@dataclass(frozen=True)
class Measure:
    """The mean of one measure over all judged queries, from 0 to 1.

    Attributes:
        first_stage: of the lists as the first stage ranks them.
        reranked: of the published lists.
        ceiling: of the best order of the same candidates.
    """

    first_stage: float
    reranked: float
    ceiling: float


@dataclass(frozen=True)
class Gate:
    """What the gate of the config found.

    Attributes:
        passed: whether every limit is kept.
        forced: why the results were published although it did not pass; None if they were not.
        findings: one for each limit.
    """

    passed: bool
    forced: str | None
    findings: tuple[Finding, ...]

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Gate:
        """From a log entry."""
        findings = (
            Finding(**{**finding, "examples": tuple(finding["examples"])})
            for finding in plain["findings"]
        )
        return cls(plain["passed"], plain["forced"], tuple(findings))

    def to_dict(self) -> dict[str, Any]:
        """As a log entry holds it."""
        findings = [finding.to_dict() for finding in self.findings]
        return {"passed": self.passed, "forced": self.forced, "findings": findings}


@dataclass(frozen=True)
class PrecisionCheck:
    """How much a rerank step's reduced precision changes, on queries scored in fp32 too.

    Attributes:
        precision: of the step, e.g. `bf16`.
        queries: queries that were scored in both.
        compared: rows of their best 10 by the step.
        flipped: of them, rows that are not among the best 10 in fp32.
        largest_difference: between the two scores of a pair.
        range: difference of the highest and the lowest score in fp32.
    """

    precision: str
    queries: int
    compared: int
    flipped: int
    largest_difference: float
    range: float


@dataclass(frozen=True)
class CutInputs:
    """Inputs of a model that were longer than it takes, and were truncated.

    Attributes:
        kind: `documents`, `queries` or `pairs`.
        model: its name.
        tokens: the model's maximum length.
        cut: inputs that were truncated.
        of: inputs that were counted.
        step: the rerank step of pairs; else empty.
    """

    kind: str
    model: str
    tokens: int
    cut: int
    of: int
    step: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As a log entry holds it."""
        return {name: value for name, value in asdict(self).items() if value != ""}
