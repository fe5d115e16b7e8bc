"""What a night would take on which a share of the documents is replaced, queries unchanged.

Shares of a full run's seconds and bytes, by stage, as the stages work: the input is read and
compared in full (less, where files are as they were: those are not read again), documents that
stand cost nothing, new segments are searched for all queries, a thirtieth of the lists is searched
again, lists are written anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from nightrank.forecast.artifacts import Written
from nightrank.forecast.shape import Shape
from nightrank.forecast.times import StageCost

# Pairs that are new when a share of the documents is: 1.5 and 12 % for 1 and 10 % (nightly.md).
NEW_PAIRS = 1.3
# Merging carries what stands: sorting again costs about half of what finding it did.
CARRY = 0.5
IN_FULL = ("start", "ingest corpus", "delta corpus", "rank", "changes", "rejects")
OF_DOCUMENTS = (
    "segment",
    "tokenize documents",
    "terms of documents",
    "embed documents",
    "build index",
)


@dataclass(frozen=True)
class Night:
    """One night: wall seconds, bytes written, pairs scored, seconds of GPUs."""

    share: float
    seconds: float
    size: int
    pairs: int
    gpu_seconds: float


def night(
    share: float,
    shape: Shape,
    spent: dict[str, StageCost],
    made: dict[str, Written],
    audit_nights: int,
) -> Night:
    """A night that replaces this share of the documents.

    Args:
        share: 0 to 1.
        shape: the job.
        spent: seconds of the full run.
        made: bytes of the full run.
        audit_nights: `nightly.audit_nights`.
    """
    pairs = min(1.0, NEW_PAIRS * share)
    searched = min(1.0, share + 1.0 / audit_nights)
    steps = {step.name for step in shape.steps}

    def part(stage: str) -> tuple[float, float]:
        """Shares of seconds and bytes."""
        if stage == "ingest corpus":
            return 1.0, 1.0
        if stage == "extract":
            return 1.0, share
        if stage in OF_DOCUMENTS:
            return share, share
        if stage == "search":
            return searched, searched
        if stage == "merge":
            return CARRY + searched, 1.0
        if stage in steps:
            return pairs, 1.0  # Scores of all pairs travel to their lists again, known or not.
        if stage in IN_FULL or stage.startswith("rank "):
            return 1.0, 1.0
        return 0.0, 0.0

    seconds = sum(part(stage)[0] * each.seconds for stage, each in spent.items())
    gpu = sum(part(stage)[0] * each.gpu_seconds for stage, each in spent.items())
    size = 0.0
    for stage, what in made.items():
        stored = what.files.get("store", 0) if stage in steps else 0
        size += part(stage)[1] * (what.size - stored) + pairs * stored
    scored = round(shape.pairs * pairs)
    return Night(share, seconds, round(size), scored, gpu)
