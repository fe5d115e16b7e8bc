"""What is checked between a finished run and its publication: limits of the config, one by one.

A run is compared with the generation that readers see. One that fails is kept, unpublished, and
says which limit, by how much, with examples. Nothing is measured here that a stage has not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nightrank.config.running import Gate
from nightrank.errors import NightrankError
from nightrank.storage.dataset import Manifest

EXAMPLES = 3


@dataclass(frozen=True)
class Finding:
    """One limit and what was found.

    Attributes:
        limit: the key in the config's `gate`.
        allowed: its value.
        found: what it was compared with.
        passed: whether the one allows the other.
        detail: what was counted, and examples.
        examples: at most three: ids, and values where there are such.
    """

    limit: str
    allowed: float
    found: float
    passed: bool
    detail: str = ""
    examples: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As it is stored in a log entry and printed by `--json`."""
        return {**asdict(self), "examples": list(self.examples)}

    def __str__(self) -> str:
        """`max_lost_queries: 0.0417, allowed 0.01 (5 of 120 queries, e.g. q7)`."""
        return f"{self.limit}: {self.found:.4g}, allowed {self.allowed:g} ({self.detail})"


@dataclass(frozen=True)
class Removals:
    """Documents of one corpus that are not in another.

    Attributes:
        removed: how many.
        of: how many the first corpus has.
        examples: ids of some.
    """

    removed: int
    of: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """One measure of two generations by the same judgements.

    Attributes:
        name: of the measure.
        before: its mean of the published generation.
        now: its mean of this run.
        drops: the queries that fell most: query_id, value before, value now.
    """

    name: str
    before: float
    now: float
    drops: tuple[tuple[str, float, float], ...] = ()


def deletions(limits: Gate, counted: Removals) -> Finding:
    """How much of the published corpus a run removes."""
    share = counted.removed / counted.of if counted.of else 0.0
    limit, examples = limits.max_delete_fraction, [{"doc_id": i} for i in counted.examples]
    detail = f"{counted.removed} of {counted.of} documents are missing from the input"
    return _finding("max_delete_fraction", limit, share, share <= limit, detail, examples)


def examine(
    limits: Gate,
    counts: dict[str, dict[str, int]],
    changes: Manifest,
    candidates: Manifest,
    measured: Measured | None,
    ingested: Sequence[Manifest] = (),
) -> list[Finding]:
    """Compares a finished run with the generation that is published.

    Args:
        limits: of the config.
        counts: the balances of documents and queries.
        changes: the changes stage's manifest.
        candidates: the merge stage's.
        measured: the first measure, where both generations have one by the same judgements.
        ingested: what the ingest stages made of both inputs, for examples of rejected rows.

    Returns:
        One finding per limit that could be looked at.
    """
    rejected = sum(part["rejected"] for part in counts.values())
    rows = sum(part["in"] for part in counts.values())
    share, limit = rejected / max(rows, 1), limits.max_reject_rate
    detail = f"{rejected} of {rows} rows"
    shards = [shard for manifest in ingested for shard in manifest.shards]
    bad = [{"row": s.stats["example"]} for s in shards if "example" in s.stats]
    findings = [_finding("max_reject_rate", limit, share, share <= limit, detail, bad)]
    differing = candidates.total("lists_differing")
    limit = limits.max_differing_lists
    detail = "lists that were carried over and that a full search found otherwise"
    findings.append(_finding("max_differing_lists", limit, differing, differing <= limit, detail))
    if before := changes.total("before"):
        gone, limit = changes.total("deletes"), limits.max_withdrawn_queries
        detail = f"{gone} of {before} queries are asked no more"
        share, ids = gone / before, _ids(changes, "withdrawn_examples")
        findings.append(
            _finding("max_withdrawn_queries", limit, share, share <= limit, detail, ids)
        )
    asked, compared = changes.total("asked_before"), changes.total("overlap_of")
    if asked:
        lost, limit = changes.total("lost"), limits.max_lost_queries
        detail, ids = f"{lost} of {asked} queries lost their list", _ids(changes, "lost_examples")
        share = lost / asked
        findings.append(_finding("max_lost_queries", limit, share, share <= limit, detail, ids))
    if compared:
        overlap = sum(float(shard.stats["overlap_sum"]) for shard in changes.shards) / compared
        pairs = [pair for shard in changes.shards for pair in shard.stats["least_overlap"]]
        worst = [{"query_id": i, "overlap": v} for i, v in sorted(pairs, key=lambda p: p[1])]
        limit = limits.min_overlap
        detail = f"mean rank-biased overlap of {compared} lists with the generation before"
        findings.append(_finding("min_overlap", limit, overlap, overlap >= limit, detail, worst))
    if measured:
        limit, drop = limits.max_measure_drop, measured.before - measured.now
        detail = f"{measured.name} {measured.before:.4f} -> {measured.now:.4f}"
        worst = [{"query_id": i, "before": b, "now": n} for i, b, n in measured.drops]
        findings.append(_finding("max_measure_drop", limit, drop, drop <= limit, detail, worst))
    return findings


def _finding(
    limit: str,
    allowed: float,
    found: float,
    passed: bool,
    detail: str,
    examples: Sequence[dict[str, Any]] = (),
) -> Finding:
    """A finding whose detail shows the examples."""
    some = tuple(examples[:EXAMPLES])
    shown = ", ".join(map(_shown, some))
    return Finding(
        limit, allowed, found, passed, detail + (f", e.g. {shown}" if shown else ""), some
    )


def _shown(example: dict[str, Any]) -> str:
    """`d7`, `q7 (0.31)` or `q7 (1.0000 -> 0.3869)`."""
    name, *values = example.values()
    shown = " -> ".join(f"{value:.4f}" if "now" in example else str(value) for value in values)
    return str(name)[:200] + (f" ({shown})" if shown else "")


def _ids(changes: Manifest, name: str) -> list[dict[str, Any]]:
    query_ids = [query_id for shard in changes.shards for query_id in shard.stats.get(name, [])]
    return [{"query_id": query_id} for query_id in query_ids]


def described(findings: list[Finding], forced: str) -> dict[str, Any]:
    """What was found, as it is stored in a log entry and printed by `--json`."""
    passed = all(finding.passed for finding in findings)
    plain = [finding.to_dict() for finding in findings]
    return {"passed": passed, "forced": forced or None, "findings": plain}


def refuse(findings: list[Finding]) -> None:
    """Ends a run that did not pass.

    Raises:
        NightrankError: E_GATE with every limit that was not kept.
    """
    if failed := [finding for finding in findings if not finding.passed]:
        what = "held back by the gate: " + "; ".join(map(str, failed))
        do = 'look at it, correct the input or the limit, or --force-publish "why"'
        raise NightrankError("E_GATE", what, "gate", do, {"gate": described(findings, "")})
