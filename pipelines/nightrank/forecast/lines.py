"""The stages of a full run as a forecast lists them, and what their declarations say of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from nightrank.generations.stage_order import declarations
from nightrank.runtime.stage import Pool, Quantity

# Labels of a run on an empty lake before its rerank steps, in its order.
BEFORE_STEPS = (
    "ingest corpus",
    "delta corpus",
    "ingest queries",
    "delta queries",
    "extract",
    "segment",
    "tokenize documents",
    "terms of documents",
    "embed documents",
    "train index",
    "build index",
    "distinct",
    "tokenize queries",
    "terms of queries",
    "embed queries",
    "search",
    "merge",
)
AFTER_STEPS = ("rank", "changes", "rejects")
# Stages of an incremental run that a first run does not have, and stages of similar cost.
LIKE = {"search new": "search", "carry": "merge"}
# Not forecast: a run compacts and takes documents back at thresholds that only its data reach, and
# an evaluation reads what is published.
NOT_FORECAST = ("removals", "compact", "copy", "evaluate")


def labels_of(steps: Sequence[str]) -> tuple[str, ...]:
    """Labels of all stages of a full run.

    Args:
        steps: names of the rerank steps, in order.
    """
    ranked = [[step, f"rank {step}"] for step in steps[:-1]]
    inner = [label for pair in ranked for label in pair]
    return (*BEFORE_STEPS, *inner, *steps[-1:], *AFTER_STEPS)


def name_of(label: str, steps: Collection[str] = ()) -> str:
    """The declaration's name of the stage that a run reports by this label.

    Args:
        label: e.g. `build index`, `terms of queries`, or a rerank step's name.
        steps: names of the rerank steps; a step's label may end in the segment that it scores.
    """
    word, before = label.partition(" ")[0], label.rpartition(" ")[0]
    if label in steps or (before in steps and word != "rank"):
        return "rerank"
    whole = label.replace(" ", "_")
    return whole if any(whole == each.name for each in declarations()) else word


def scales_with(name: str) -> Quantity:
    """What the cost of the stage of this name is proportional to.

    Raises:
        KeyError: no stage is declared by this name.
    """
    return {each.name: each.scales_with for each in declarations()}[name]


def pool_of(name: str) -> Pool:
    """The worker processes that the stage of this name is declared for.

    Raises:
        KeyError: no stage is declared by this name.
    """
    return {each.name: each.pool for each in declarations()}[name]


def reads_queries(label: str) -> bool:
    """Whether a stage that both inputs go through reads the queries here, not the corpus."""
    return label.endswith("queries")


def grows_with_documents(label: str, steps: Collection[str] = ()) -> bool:
    """Whether the cost of a stage is proportional to documents or to their texts."""
    name = name_of(label, steps)
    quantity = scales_with(name)
    return quantity == "documents" or (quantity == "texts" and not reads_queries(label))
