"""The report is one well-formed, self-contained page that escapes every text."""

from html.parser import HTMLParser

import pyarrow as pa
import pytest

from nightrank.evaluation.lift import SCHEMA
from nightrank.evaluation.movement import COUNTS
from nightrank.evaluation.report import Candidate, Example, Report, render

VOID = {"meta", "line", "rect", "circle", "br"}
HOSTILE = "<script>alert('x')</script>&\" {{ 7 * 7 }} {% raw %} {# note #}"
# Cells that say what they are without a label on a narrow screen.
UNLABELLED = {"name", "chart", "document", "judged", "meaning", "total"}


class Page(HTMLParser):
    """Checks that tags nest, and collects text and attributes."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text, self.attributes, self.cells = [], [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "td":
            self.cells.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def lifts(**changes):
    row = {
        "num_queries": 1234, "first_stage": 0.41, "reranked": 0.553, "ceiling": 0.78, "lift": 0.143,
        "lift_low": 0.12, "lift_high": 0.166, "headroom_reached": 0.3865, "improved": 700,
        "degraded": 200, "unchanged": 334,
    }  # fmt: skip
    rows = [{"vertical": name, **row, **changes} for name in ("all", "law & order", HOSTILE)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def report(**changes):
    moves = {g: {"num_queries": 9, **dict.fromkeys(COUNTS, 4321)} for g in ("all", HOSTILE)}
    candidates = [
        Candidate("d1", "rises", 2, 14, 1),
        Candidate("d2", HOSTILE, None, 1, 12),
        Candidate(HOSTILE, "lost", 1, None, None),
        Candidate("d4", "judged bad", -1, 3, 3),
    ]
    given = {
        "title": f"nightly {HOSTILE}",
        "lifts": {"nDCG@10": lifts(), "RR@10": lifts()},
        "moves": moves,
        "examples": [Example("q1", HOSTILE, candidates)],
        "facts": {"model": HOSTILE},
    }
    return Report(**{**given, **changes})


def test_the_page_shows_the_figures_and_loads_nothing():
    html = render(report())
    page = Page(html)
    text = " ".join(page.text)
    for shown in ["0.410", "0.553", "0.780", "+0.143", "+0.120 to +0.166", "39 % of the possible",
                  "1,234", "4,321", "▲13", "▼11", "relevance 2", "not judged"]:  # fmt: skip
        assert shown in text, shown
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not {"src", "href", "onload"} & {name for name, _ in page.attributes}
    assert "http" not in html and "url(" not in html
    assert render(report()) == html


def test_text_from_data_is_neither_markup_nor_a_template():
    html = render(report(warnings=[HOSTILE]))
    assert "<script" not in html
    # Title twice; a vertical in two measures and in movement; query, text and id; fact; warning.
    assert "".join(Page(html).text).count(HOSTILE) == 2 + 2 + 1 + 3 + 1 + 1


def test_every_figure_has_a_label_on_a_narrow_screen():
    cells = Page(render(report())).cells
    assert len(cells) > 60
    for cell in cells:
        assert bool(UNLABELLED & set(cell["class"].split())) != ("data-label" in cell), cell


@pytest.mark.parametrize(
    "changes",
    [
        {"reranked": 0.3, "lift": -0.11, "lift_low": -0.9, "headroom_reached": -0.3},
        {"ceiling": 0.41, "headroom_reached": None},
        {"reranked": 55.0, "ceiling": 90.0, "lift": 54.6, "lift_high": 60.0},
    ],
)
def test_harm_no_headroom_and_measures_beyond_one_are_drawn_within_the_chart(changes):
    page = Page(render(report(lifts={"m": lifts(**changes)}, examples=(), facts={})))
    drawn = [(k, v) for k, v in page.attributes if k in ("x", "x1", "x2", "cx", "width")]
    assert {k for k, _ in drawn} == {"x", "x1", "x2", "cx", "width"}
    assert all(v.endswith("%") and 0 <= float(v[:-1]) <= 100 for _, v in drawn)
    assert "Examples" not in "".join(page.text)
