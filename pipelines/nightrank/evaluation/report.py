"""The report of one run: a single HTML page that needs nothing but itself.

No scripts, no fonts, no images, no links to elsewhere: it opens from a mail or a bucket alike, and
every text that came from data is escaped. Charts are inline SVG.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import pyarrow as pa

from nightrank.evaluation.movement import COUNTS

CHART_WIDTH, CHART_HEIGHT = 200, 20
# Of the counts of movement: which are good news, which are bad; the others are neutral.
GOOD = ("false_positives_demoted", "false_negatives_promoted")
BAD = ("harmful_moves", "false_positives_promoted")

STYLE = """
:root { --ink: #1c2430; --soft: #667085; --line: #e3e7ed; --page: #f6f7f9; --card: #fff;
  --after: #1463c6; --good: #12805c; --bad: #c2410c; --band: #1463c633; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #98a2b3; --line: #2c3440;
  --page: #12161c; --card: #1a2028; --after: #66a8ff; --good: #4cc38a; --bad: #ff9a62;
  --band: #66a8ff44; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { font-size: 22px; margin: 0 0 2px; }
h2 { font-size: 16px; margin: 0 0 12px; }
p { margin: 0 0 12px; }
.soft, th, dt, figcaption { color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 20px 22px; margin: 16px 0; overflow-x: auto; }
.numbers { display: flex; flex-wrap: wrap; gap: 10px 36px; margin-bottom: 12px; }
.numbers b { display: block; font-size: 30px; line-height: 1.2; font-weight: 600; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; font-size: 13px; white-space: nowrap; }
th, td { padding: 6px 13px 6px 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
tr:last-child td { border-bottom: 0; }
.n { text-align: right; white-space: nowrap; }
td.doc { overflow-wrap: anywhere; width: 100%; }
.after { color: var(--after); } .good { color: var(--good); } .bad { color: var(--bad); }
.chip { border: 1px solid currentColor; border-radius: 9px; padding: 0 7px; font-size: 12px;
  white-space: nowrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 0; }
dd { margin: 0; overflow-wrap: anywhere; }
svg { display: block; } svg.wide { width: 100%; height: auto; max-width: 620px; }
.track { stroke: var(--line); stroke-width: 2; } .band { fill: var(--band); }
.ceiling { stroke: var(--soft); stroke-width: 2; } .move { stroke: var(--after); stroke-width: 2; }
.was { fill: var(--card); stroke: var(--soft); stroke-width: 2; } .now { fill: var(--after); }
.worse .now { fill: var(--bad); } .worse .move { stroke: var(--bad); }
figure { margin: 0; } figcaption { font-size: 13px; margin-top: 6px; }
article + article { margin-top: 22px; } article p { margin-bottom: 4px; font-weight: 600; }
"""


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
    """One query and the documents worth showing, in the order to show them."""

    query_id: str
    query: str
    candidates: Sequence[Candidate]


@dataclass(frozen=True)
class Report:
    """What the page tells.

    Attributes:
        title: e.g. the experiment's name.
        lifts: measure to table, as `lift.summarise` returns it; the first is the headline.
        moves: as `movement.totals` returns it.
        cutoff: the `cutoff` that `moves` were counted at.
        examples: a few queries.
        facts: name to value, shown at the end: digests, models, counts, the time.
        warnings: a line each, shown above the numbers: what makes them say little.
    """

    title: str
    lifts: dict[str, pa.Table]
    moves: dict[str, dict[str, int]]
    cutoff: int = 10
    examples: Sequence[Example] = ()
    facts: dict[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def render(report: Report) -> str:
    """Renders the page; the same report gives the same text.

    Args:
        report: with at least one measure.

    Returns:
        A complete HTML document.
    """
    measure, table = next(iter(report.lifts.items()))
    rows = table.to_pylist()
    parts = [
        f"<h1>{escape(report.title)}</h1>",
        f'<p class="soft">What reranking bought on {_count(rows[0]["num_queries"])} judged '
        "queries.</p>",
        *(f'<p class="bad">Warning: {escape(line)}</p>' for line in report.warnings),
        _headline(measure, rows[0]),
        *(_verticals(name, lifts.to_pylist()) for name, lifts in report.lifts.items()),
        _movement(report.moves, report.cutoff),
        _examples(report.examples),
        _facts(report.facts),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _headline(measure: str, row: dict[str, Any]) -> str:
    reached = row["headroom_reached"]
    share = (
        "" if reached is None else f"{100 * reached:.0f} % of the possible lift".replace("-", "−")
    )
    numbers = [
        ("before", f"{row['first_stage']:.3f}", "", "first stage"),
        ("after", f"{row['reranked']:.3f}", "after", "reranked"),
        ("ceiling", f"{row['ceiling']:.3f}", "soft", "perfect order of the same candidates"),
        ("lift", _signed(row["lift"]), _tone(row["lift"]), share),
    ]
    blocks = "".join(
        f'<div><span class="soft">{name}</span><b class="{tone}">{value}</b>'
        f'<span class="soft">{note}</span></div>'
        for name, value, tone, note in numbers
    )
    caption = (
        "Ring: before. Dot: after, with the 95 % interval of the lift (paired bootstrap over "
        f"queries, {_signed(row['lift_low'])} to {_signed(row['lift_high'])}). Bar: the ceiling "
        f"that the first stage allows. The axis runs from 0 to {_largest([row]):g}."
    )
    return (
        f'<section>\n<h2>{escape(measure)}</h2>\n<div class="numbers">{blocks}</div>\n<figure>'
        f"{_chart(row, _largest([row]), wide=True)}<figcaption>{caption}</figcaption></figure>\n"
        "</section>"
    )


def _verticals(measure: str, rows: list[dict[str, Any]]) -> str:
    largest = _largest(rows)
    body = "".join(
        f"<tr><td>{escape(row['vertical'])}</td><td class='n'>{_count(row['num_queries'])}</td>"
        f"<td class='n'>{row['first_stage']:.3f}</td><td class='n after'>{row['reranked']:.3f}</td>"
        f"<td class='n soft'>{row['ceiling']:.3f}</td>"
        f"<td class='n {_tone(row['lift'])}'>{_signed(row['lift'])}</td>"
        f"<td class='n soft'>{_signed(row['lift_low'])} to {_signed(row['lift_high'])}</td>"
        f"<td class='n'><span class='good'>{_count(row['improved'])}</span> / "
        f"<span class='bad'>{_count(row['degraded'])}</span> / {_count(row['unchanged'])}</td>"
        f"<td>{_chart(row, largest)}</td></tr>\n"
        for row in rows
    )
    return (
        f"<section>\n<h2>{escape(measure)} by vertical</h2>\n<table>\n<thead><tr><th>vertical</th>"
        "<th class='n'>queries</th><th class='n'>before</th><th class='n'>after</th>"
        "<th class='n'>ceiling</th><th class='n'>lift</th><th class='n'>95 %</th>"
        "<th class='n'>better / worse / same</th><th></th></tr></thead>\n"
        f"<tbody>{body}</tbody>\n</table>\n</section>"
    )


def _movement(moves: dict[str, dict[str, int]], cutoff: int) -> str:
    groups = list(moves)
    head = "".join(f"<th class='n'>{escape(group)}</th>" for group in groups)
    body = ""
    for name, meaning in COUNTS.items():
        tone = "good" if name in GOOD else "bad" if name in BAD else ""
        cells = "".join(f"<td class='n {tone}'>{_count(moves[g][name])}</td>" for g in groups)
        label = name.replace("_", " ")
        body += f"<tr><td>{label}<br><span class='soft'>{meaning}</span></td>{cells}</tr>\n"
    return (
        f"<section>\n<h2>Into and out of the top {cutoff}</h2>\n"
        "<p class='soft'>Documents, summed over queries. What is not judged counts as not "
        "relevant, so sparse judgements overstate the false positives.</p>\n"
        f"<table>\n<thead><tr><th></th>{head}</tr></thead>\n<tbody>{body}</tbody>\n</table>\n"
        "</section>"
    )


def _examples(examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    articles = ""
    for example in examples:
        body = "".join(_candidate(candidate) for candidate in example.candidates)
        articles += (
            f"<article>\n<p>{escape(example.query)} <span class='soft'>"
            f"{escape(example.query_id)}</span></p>\n<table>\n<thead><tr><th class='n'>before</th>"
            "<th class='n'>after</th><th class='n'>move</th><th>document</th><th>judged</th></tr>"
            f"</thead>\n<tbody>{body}</tbody>\n</table>\n</article>\n"
        )
    return f"<section>\n<h2>Examples</h2>\n{articles}</section>"


def _candidate(candidate: Candidate) -> str:
    was, now = candidate.first_stage_rank, candidate.rank
    move = "" if was is None or now is None else "=" if was == now else _arrow(was - now)
    relevant = (candidate.relevance or 0) > 0
    judged = "not judged" if candidate.relevance is None else f"relevance {candidate.relevance}"
    tone = "good" if relevant else "soft"
    # For a relevant document going up is good, for any other going down is.
    better = "" if move in ("", "=") else "good" if (move[0] == "▲") == relevant else "bad"
    return (
        f"<tr><td class='n'>{_rank(was)}</td><td class='n'>{_rank(now)}</td>"
        f"<td class='n {better}'>{move}</td><td class='doc'>{escape(candidate.text)} "
        f"<span class='soft'>{escape(candidate.doc_id)}</span></td>"
        f"<td><span class='chip {tone}'>{judged.replace('-', '−')}</span></td></tr>\n"
    )


def _facts(facts: dict[str, str]) -> str:
    if not facts:
        return ""
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    return f"<section>\n<h2>This run</h2>\n<dl>{items}</dl>\n</section>"


def _chart(row: dict[str, Any], largest: float, wide: bool = False) -> str:
    """Draws before, after with its interval, and the ceiling on an axis from 0 to `largest`."""
    middle, left = CHART_HEIGHT / 2, 7.0
    scale = (CHART_WIDTH - 2 * left) / largest

    def x(value: float) -> str:
        return f"{left + min(max(value, 0.0), largest) * scale:.1f}"

    was, now, best = row["first_stage"], row["reranked"], row["ceiling"]
    low, high = x(was + row["lift_low"]), x(was + row["lift_high"])
    label = f"before {was:.3f}, after {now:.3f}, ceiling {best:.3f}"
    size = "" if wide else f"width='{CHART_WIDTH}' height='{CHART_HEIGHT}'"
    tone = ("wide " if wide else "") + ("worse" if now < was else "")
    return (
        f"<svg {size} class='{tone}' viewBox='0 0 {CHART_WIDTH} {CHART_HEIGHT}' role='img' "
        f"aria-label='{label}'>"
        f"<line class='track' x1='{x(0)}' y1='{middle}' x2='{x(largest)}' y2='{middle}'/>"
        f"<rect class='band' x='{low}' y='{middle - 6}' width='{float(high) - float(low):.1f}' "
        "height='12' rx='3'/>"
        f"<line class='ceiling' x1='{x(best)}' y1='{middle - 7}' x2='{x(best)}' y2='{middle + 7}'/>"
        f"<line class='move' x1='{x(was)}' y1='{middle}' x2='{x(now)}' y2='{middle}'/>"
        f"<circle class='was' cx='{x(was)}' cy='{middle}' r='4'/>"
        f"<circle class='now' cx='{x(now)}' cy='{middle}' r='5'/></svg>"
    )


def _largest(rows: list[dict[str, Any]]) -> float:
    """The axis ends at 1, or further for measures that are counts."""
    return max(1.0, *(row[name] for row in rows for name in ("first_stage", "reranked", "ceiling")))


def _arrow(up: int) -> str:
    return f"▲{up}" if up > 0 else f"▼{-up}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _tone(value: float) -> str:
    return "good" if value > 0 else "bad" if value < 0 else ""


def _count(value: int) -> str:
    return f"{value:,}"


def _rank(value: int | None) -> str:
    return "–" if value is None else str(value)
