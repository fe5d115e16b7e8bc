"""What an incremental run takes that replaces a share of the documents and no query.

Shares of a full run's seconds and bytes, by what a stage's cost is proportional to. The input is
read and compared in full (less, where files are unchanged: those are not read again), existing
documents cost nothing, new segments are searched for all queries, a share of the lists is searched
again, all lists are written again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from nightrank.forecast.artifacts import Written
from nightrank.forecast.lines import grows_with_documents, name_of, reads_queries, scales_with
from nightrank.forecast.shape import Shape
from nightrank.forecast.times import StageCost

# Pairs that are new when a share of the documents is: 1.5 and 12 % for 1 and 10 % (nightly.md).
NEW_PAIRS = 1.3
# Merging keeps existing lists: sorting them again costs about half of a full merge.
CARRY = 0.5


@dataclass(frozen=True)
class IncrementalRun:
    """One incremental run: wall seconds, bytes written, pairs scored, seconds of GPUs."""

    share: float
    seconds: float
    size: int
    pairs: int
    gpu_seconds: float


@dataclass(frozen=True)
class Shares:
    """What an incremental run replaces.

    Attributes:
        documents: share of the documents.
        pairs: share of the pairs that have no known score.
        searched: share of the lists that are searched again.
    """

    documents: float
    pairs: float
    searched: float

    def of(self, label: str, steps: Collection[str]) -> tuple[float, float]:
        """Shares of a stage's seconds and bytes in a full run."""
        if label == "start":
            return 1.0, 1.0
        name = name_of(label, steps)
        if name == "search":
            return self.searched, self.searched
        if name == "merge":
            return CARRY + self.searched, 1.0
        if name == "extract":  # Reads every split, writes new documents.
            return 1.0, self.documents
        if name == "train_index":  # The template is kept.
            return 0.0, 0.0
        if grows_with_documents(label, steps):
            return self.documents, self.documents
        quantity = scales_with(name)
        if quantity == "pairs":
            return self.pairs, 1.0  # Scores of all pairs go to their lists, known or not.
        if reads_queries(label) or quantity == "queries":
            return 0.0, 0.0
        return 1.0, 1.0


def incremental_run(
    share: float,
    shape: Shape,
    spent: dict[str, StageCost],
    written: dict[str, Written],
    audit_nights: int,
) -> IncrementalRun:
    """A run that replaces this share of the documents.

    Args:
        share: 0 to 1.
        shape: the job.
        spent: seconds of the full run.
        written: bytes of the full run.
        audit_nights: `nightly.audit_nights`.
    """
    pairs = min(1.0, NEW_PAIRS * share)
    shares = Shares(share, pairs, min(1.0, share + 1.0 / audit_nights))
    steps = {step.name for step in shape.steps}
    times = {stage: shares.of(stage, steps)[0] for stage in spent}
    seconds = sum(times[stage] * each.seconds for stage, each in spent.items())
    gpu = sum(times[stage] * each.gpu_seconds for stage, each in spent.items())
    size = 0.0
    for stage, files in written.items():
        stored = files.files.get("store", 0) if stage in steps else 0
        size += shares.of(stage, steps)[1] * (files.size - stored) + pairs * stored
    scored = round(shape.pairs * pairs)
    return IncrementalRun(share, seconds, round(size), scored, gpu)
