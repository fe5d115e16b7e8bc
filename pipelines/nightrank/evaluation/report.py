"""The report of one evaluation: a single HTML page without scripts, fonts, images or links.

It opens from a mail or a bucket alike. The page is the template `report.html.j2`, which escapes
every text; this module computes what it shows. Charts are inline SVG.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nightrank.evaluation.movement import COUNTS

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = "report.html.j2"
# Which counts of movement are an improvement and which a harm; the others are neutral.
TONES = {
    "false_positives_demoted": "good",
    "false_negatives_promoted": "good",
    "harmful_moves": "bad",
    "false_positives_promoted": "bad",
}


@dataclass(frozen=True)
class Candidate:
    """One document of an example; a rank or relevance that does not exist is None."""

    doc_id: str
    text: str
    relevance: int | None
    first_stage_rank: int | None
    rank: int | None


@dataclass(frozen=True)
class Example:
    """One query and the documents to show for it, in the order to show them."""

    query_id: str
    query: str
    candidates: Sequence[Candidate]


@dataclass(frozen=True)
class Report:
    """What the page shows.

    Attributes:
        title: e.g. the experiment's name.
        lifts: measure to table, as `lift.summarise` returns it; the first is the headline.
        moves: as `movement.totals` returns it.
        cutoff: the `cutoff` that `moves` were counted at.
        examples: a few queries.
        facts: name to value, shown at the end: digests, models, counts, the time.
        warnings: a line each, shown above the figures: why they say little.
    """

    title: str
    lifts: dict[str, pa.Table]
    moves: dict[str, dict[str, int]]
    cutoff: int = 10
    examples: Sequence[Example] = ()
    facts: dict[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Chart:
    """Places on an axis that starts at 0, in percent of its length, from 0 to 100."""

    before: float
    after: float
    ceiling: float
    low: float
    high: float

    @classmethod
    def of(cls, row: dict[str, Any], axis_end: float) -> Chart:
        """Places a row of `lift.SCHEMA`; what lies beyond an end of the axis is drawn at it."""
        before = row["first_stage"]
        values = (
            before,
            row["reranked"],
            row["ceiling"],
            before + row["lift_low"],
            before + row["lift_high"],
        )
        return cls(*(round(100 * min(max(v / axis_end, 0.0), 1.0), 2) for v in values))


@dataclass(frozen=True)
class Measure:
    """A measure's figures: a row of `lift.SCHEMA` for all queries, then one for each vertical.

    Attributes:
        name: e.g. `nDCG@10`.
        rows: each with a `chart`.
        axis_end: 1, or the largest value of a measure that exceeds 1, such as a count.
    """

    name: str
    rows: list[dict[str, Any]]
    axis_end: float

    @classmethod
    def of(cls, name: str, table: pa.Table) -> Measure:
        """Takes a table as `lift.summarise` returns it."""
        rows = table.to_pylist()
        values = (row[k] for row in rows for k in ("first_stage", "reranked", "ceiling"))
        end = max(1.0, *values)
        return cls(name, [{**row, "chart": Chart.of(row, end)} for row in rows], end)


def render(report: Report) -> str:
    """Renders the page; the same report gives the same text.

    Args:
        report: with at least one measure.

    Returns:
        A complete HTML document.
    """
    measures = [Measure.of(name, table) for name, table in report.lifts.items()]
    return _template().render(report=report, measures=measures, counts=COUNTS, tones=TONES)


@cache
def _template() -> Template:
    # Imported here: 40 ms that only a run with judgements needs.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("nightrank", "evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "fixed": "{:.3f}".format,
        "grouped": _grouped,
        "signed": _signed,
        "tone": _tone,
        "words": lambda name: name.replace("_", " "),
    }
    environment.globals["move_of"] = _move
    return environment.get_template(TEMPLATE)


def _move(candidate: Candidate) -> tuple[str, str]:
    """How far a document moved, e.g. ▲3, and whether that is `good` or `bad`."""
    if candidate.first_stage_rank is None or candidate.rank is None:
        return "", ""
    up = candidate.first_stage_rank - candidate.rank
    if not up:
        return "=", ""
    # A relevant document should move up, any other down.
    relevant = (candidate.relevance or 0) > 0
    return f"{'▲' if up > 0 else '▼'}{abs(up)}", "good" if (up > 0) == relevant else "bad"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _tone(value: float) -> str:
    return "good" if value > 0 else "bad" if value < 0 else ""


def _grouped(value: int) -> str:
    return f"{value:,}".replace("-", "−")
