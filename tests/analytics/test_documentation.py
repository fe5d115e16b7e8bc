"""Every command, snippet and query of docs/analytics.md is run, and the answers are checked."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from nightrank import read_results
from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from tests.support.nights import DAYS, Nights, catalog_in
from tests.support.pages import REPOSITORY, blocks

TEXT = (REPOSITORY / "docs" / "analytics.md").read_text()
TOP = 3


QUESTIONS = {
    heading: blocks("sql", text)[0]
    for heading, text in re.findall(r"\n### (.*?)\n(.*?)(?=\n###|\Z)", TEXT, re.DOTALL)
}
(VIEWS,) = [block for block in blocks("sql", TEXT) if block.startswith("CREATE")]
SNIPPETS = [block for block in blocks("python", TEXT) if "spark" not in block]


@pytest.fixture(scope="module")
def folder(nights: Nights, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory in which all commands of the text have been run."""
    here = tmp_path_factory.mktemp("documentation")
    (here / "my.yaml").write_bytes(Path(nights.config).read_bytes())
    (here / "qrels.tsv").write_bytes((nights.collection.folder / "qrels.tsv").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        catalog_in(here, "lakehouse", patch)
        lines = [line for block in blocks("sh", TEXT) for line in block.splitlines()]
        assert len(lines) == 5
        for line in lines:
            words, _, target = line.partition(" > ")
            with open(target or os.devnull, "w") as file, contextlib.redirect_stdout(file):
                program, *arguments = shlex.split(words)
                assert program == "nightrank"
                assert guarded(lambda arguments=arguments, **_: app(arguments)) == 0
        yield here


@pytest.fixture(scope="module")
def lists(nights: Nights) -> dict[str, pd.DataFrame]:
    """The rows of both days as `read_results` gives them, queries joined to those of the last."""
    found = {day: read_results(nights.root, "tiny", generation=day).to_table() for day in DAYS}
    frames = {day: table.to_pandas() for day, table in found.items()}
    queries = read_results(nights.root, "tiny", "queries").to_table().to_pandas()
    return {**frames, "now": frames[DAYS[1]].merge(queries, on="query_id"), "queries": queries}


def answer(question: str) -> list[tuple[Any, ...]]:
    connection = duckdb.connect()
    connection.execute(VIEWS)
    (query,) = [text for heading, text in QUESTIONS.items() if heading.startswith(question)]
    return connection.execute(query).fetchall()


@pytest.mark.usefixtures("folder")
def test_every_snippet_runs_and_reads_the_whole(nights: Nights) -> None:
    assert len(SNIPPETS) == 3
    names: dict[str, Any] = {}
    for snippet in SNIPPETS:
        exec(snippet, names)
    rows = read_results(nights.root, "tiny").to_table().num_rows
    assert len(names["by_duckdb"].fetchall()) == names["by_polars"].collect().height == rows
    assert len(names["by_pandas"]) == names["now"].num_rows == names["before"].num_rows == rows
    both = 2 * rows
    assert len(names["folder"].fetchall()) == names["lazy"].collect().height == both
    assert len(names["frame"]) == both


def test_every_question_is_checked_below(request: pytest.FixtureRequest) -> None:
    source = Path(__file__).read_text()
    assert len(QUESTIONS) == 6
    for heading in QUESTIONS:
        assert any(heading.startswith(asked) for asked in re.findall(r'answer\("(.*?)"\)', source))


@pytest.mark.usefixtures("folder")
def test_movement(lists: dict[str, pd.DataFrame]) -> None:
    wanted = []
    for vertical, rows in lists["now"].groupby("vertical"):
        now, first = rows["rank"] <= TOP, rows["first_stage_rank"] <= TOP
        wanted.append((vertical, now.sum(), (now & ~first).sum(), (~now & first).sum()))
    assert answer("What does reranking move") == wanted
    assert all(count > 0 for row in wanted for count in row[1:])


@pytest.mark.usefixtures("folder")
def test_false_positives(lists: dict[str, pd.DataFrame], nights: Nights) -> None:
    good = {(query, doc) for query, doc, _ in nights.collection.qrels}
    rows = lists["now"]
    rows = rows.assign(good=[pair in good for pair in zip(rows.query_id, rows.doc_id, strict=True)])
    wanted = []
    for vertical, some in rows.groupby("vertical"):
        now, first = some["rank"] <= TOP, some["first_stage_rank"] <= TOP
        up, down = now & ~first, ~now & first
        bad = ~some.good
        counts = [bad & down, bad & up, some.good & up, some.good & down]
        wanted.append((vertical, *(mask.sum() for mask in counts)))
    assert answer("Does it demote") == wanted
    assert all(row[1] > 0 for row in wanted) and sum(row[3] for row in wanted) > 0


@pytest.mark.usefixtures("folder")
def test_the_furthest(lists: dict[str, pd.DataFrame]) -> None:
    found = answer("Which documents moved furthest")
    rows = lists[DAYS[1]]
    places = rows["first_stage_rank"] - rows["rank"]
    assert [abs(row[4]) for row in found] == sorted(places.abs(), reverse=True)[:20]
    assert all(row[2] - row[3] == row[4] for row in found)


@pytest.mark.usefixtures("folder")
def test_churn(lists: dict[str, pd.DataFrame]) -> None:
    before, now = (lists[day].groupby("query_id")["doc_id"].agg(list).to_dict() for day in DAYS)
    verticals = dict(zip(lists["queries"].query_id, lists["queries"].vertical, strict=True))
    found = answer("What changed")
    assert [row[0] for row in found] == ["legal", "medical"]
    for vertical, queries, changed, lost, new, overlap in found:
        mine = [query for query in now if verticals[query] == vertical]
        assert (queries, lost, new) == (len(mine), 0, 0)
        assert changed == sum(now[query] != before[query] for query in mine)
        shares = [len(set(now[query]) & set(before[query])) / 5 for query in mine]
        assert overlap == pytest.approx(sum(shares) / len(mine)) and 0 < overlap < 1


@pytest.mark.usefixtures("folder")
def test_coverage_and_queries_without_candidates() -> None:
    found = answer("How well")
    assert [(str(row[0]), row[1], row[2]) for row in found] == [
        (day, vertical, count)
        for day in DAYS
        for vertical, count in (("legal", 501), ("medical", 500))
    ]
    assert [row[3] for row in found] == [pytest.approx(500 / 501), 1.0] * 2
    assert answer("Which queries have no") == [("w0", "legal", "rejected", "zero_embedding", 2)]
