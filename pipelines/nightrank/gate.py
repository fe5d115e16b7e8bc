"""What stands between a finished night and its publication: limits of the config, one by one.

A night that fails is kept, unpublished, and says which limit, by how much, with examples. Nothing
is measured here that a stage has not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nightrank.config_running import Gate
from nightrank.errors import NightrankError
from nightrank.storage.dataset import Manifest


@dataclass(frozen=True)
class Finding:
    """One limit and what was found.

    Attributes:
        limit: the key in the config's `gate`.
        allowed: its value.
        found: what it was compared with.
        passed: whether the one allows the other.
        detail: what was counted, and examples.
    """

    limit: str
    allowed: float
    found: float
    passed: bool
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a log entry."""
        return dict(self.__dict__)

    def __str__(self) -> str:
        """`max_lost_queries: 0.0417, allowed 0.01 (5 of 120 queries, e.g. 'q7')`."""
        return f"{self.limit}: {self.found:.4g}, allowed {self.allowed:g} ({self.detail})"


def deletions(limits: Gate, delta: Manifest) -> Finding:
    """How much of the standing corpus a night takes away; checked before anything is spent."""
    removed = delta.total("removed")
    standing = removed + delta.total("changed") + delta.total("unchanged")
    share = removed / standing if standing else 0.0
    limit = limits.max_delete_fraction
    detail = f"{removed} of {standing} documents are gone from the input"
    return Finding("max_delete_fraction", limit, share, share <= limit, detail)


def examine(
    limits: Gate,
    counts: dict[str, dict[str, int]],
    changes: Manifest,
    candidates: Manifest,
    measured: tuple[str, float, float] | None,
) -> list[Finding]:
    """Compares a finished night with the generation that stands.

    Args:
        limits: of the config.
        counts: the balances of documents and queries.
        changes: the changes stage's manifest.
        candidates: the merge stage's.
        measured: a measure's name and its mean then and now, where both nights have one by the same
            judgements.

    Returns:
        One finding per limit that could be looked at.
    """
    found = []
    rejected = sum(part["rejected"] for part in counts.values())
    rows = sum(part["in"] for part in counts.values())
    share, limit = rejected / max(rows, 1), limits.max_reject_rate
    detail = f"{rejected} of {rows} rows"
    found.append(Finding("max_reject_rate", limit, share, share <= limit, detail))
    differing = candidates.total("lists_differing")
    limit = limits.max_differing_lists
    detail = "standing lists that a full search found otherwise"
    found.append(Finding("max_differing_lists", limit, differing, differing <= limit, detail))
    if before := changes.total("before"):
        gone, limit = changes.total("deletes"), limits.max_withdrawn_queries
        detail = f"{gone} of {before} queries are asked no more"
        share = gone / before
        found.append(Finding("max_withdrawn_queries", limit, share, share <= limit, detail))
    asked, compared = changes.total("asked_before"), changes.total("overlap_of")
    if asked:
        lost, limit = changes.total("lost"), limits.max_lost_queries
        detail = f"{lost} of {asked} queries lost their list{_examples(changes, 'lost_examples')}"
        found.append(
            Finding("max_lost_queries", limit, lost / asked, lost / asked <= limit, detail)
        )
    if compared:
        overlap = sum(float(shard.stats["overlap_sum"]) for shard in changes.shards) / compared
        limit, worst = limits.min_overlap, _examples(changes, "least_overlap")
        detail = f"mean rank-biased overlap of {compared} lists with the generation before{worst}"
        found.append(Finding("min_overlap", limit, overlap, overlap >= limit, detail))
    if measured:
        name, then, now = measured
        limit = limits.max_measure_drop
        detail = f"{name} {then:.4f} -> {now:.4f}"
        found.append(Finding("max_measure_drop", limit, then - now, then - now <= limit, detail))
    return found


def _examples(changes: Manifest, name: str) -> str:
    values = [value for shard in changes.shards for value in shard.stats.get(name, [])]
    if values and isinstance(values[0], list):
        values = [f"{query_id} ({found})" for query_id, found in sorted(values, key=lambda v: v[1])]
    shown = ", ".join(str(value)[:80] for value in values[:3])
    return f", e.g. {shown}" if shown else ""


def refuse(findings: list[Finding]) -> None:
    """Ends a run that did not pass.

    Raises:
        NightrankError: E_GATE with every limit that was not kept.
    """
    if failed := [finding for finding in findings if not finding.passed]:
        what = "held back by the gate: " + "; ".join(map(str, failed))
        do = 'look at it, correct the input or the limit, or --force-publish "why"'
        raise NightrankError("E_GATE", what, "gate", do)
