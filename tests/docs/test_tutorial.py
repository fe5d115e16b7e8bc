"""The tutorial and the pages that continue it, run from top to bottom on toy models.

The files are those that the tutorial shows. Every command ends with exit code 0, and what the
pages promise of its output is checked.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from nightrank import read_results
from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from tests.support.commands import words_of
from tests.support.pages import Block, commands, fenced, page

PAGES = [
    "docs/tutorial.md",
    "docs/results.md",
    "docs/evaluation.md",
    "docs/incremental.md",
    "docs/operations.md",
    "docs/troubleshooting.md",
]
# A second of work instead of a minute, and no cluster.
TOYS = ["encoder.model=toy:bag-of-words", "rerank.model=toy:overlap", "cluster.executor=serial"]
# Need a cluster, or serve until they are stopped: test_commands parses them.
NOT_RUN = {"submit", "exporter"}
# The tutorial's own instruction before its last step: "Add a document, or change one".
ADDED = {"_id": "wifi", "title": "Wireless network", "text": "Guests ask the desk for a code."}


class Reader:
    """Someone who follows the pages in a folder.

    `outputs` has what each line printed, once for each time that a page shows it.
    """

    def __init__(self) -> None:
        self.outputs: defaultdict[str, list[str]] = defaultdict(list)
        self.names: dict[str, Any] = {}

    def follow(self, block: Block) -> None:
        if block.title and block.language != "yaml":
            Path(block.title).write_text(block.text)
        elif block.language == "python":
            exec(block.text, self.names)
        elif block.language == "sh":
            for line in commands(f"```sh\n{block.text}```"):
                self.run(line)

    def run(self, line: str) -> None:
        if not line.startswith("nightrank ") or line.split()[1] in NOT_RUN:
            return
        words = words_of(line)
        if words[0] != "init":
            words[2:2] = [word for toy in TOYS for word in ("--set", toy)]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert guarded(lambda **_: app(words)) == 0, line
        self.outputs[line].append(printed.getvalue())
        if redirected := re.search(r" (>>?) (\S+)$", line):
            with open(redirected[2], "a" if redirected[1] == ">>" else "w") as file:
                file.write(printed.getvalue())


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("reader"))
        reader = Reader()
        for name in PAGES:
            for part in re.split(r"(?m)^(?=## )", page(name)):
                if "Change something" in part.splitlines()[0]:
                    with open("docs.jsonl", "a") as file:
                        file.write(json.dumps(ADDED) + "\n")
                for block in fenced(part):
                    reader.follow(block)
        yield reader


def test_the_tutorial_ranks_its_documents(reader: Reader) -> None:
    rows = read_results("./lake", "my", generation=1).to_table().to_pylist()
    assert {row["query_id"] for row in rows} == {"q1", "q2", "q3"}
    assert {row["doc_id"] for row in rows} == {
        json.loads(line)["_id"] for line in Path("docs.jsonl").read_text().splitlines()
    } - {ADDED["_id"]}
    assert reader.names["best"].num_rows == 3
    (shown,) = reader.outputs["nightrank show my.yaml q3"]
    assert "vpn-slow" in shown and "remote access" in shown


def test_the_config_has_what_the_files_have(reader: Reader) -> None:
    text = Path("my.yaml").read_text()
    assert "area" in text and "vertical" in text and "qrels.tsv" in text


def test_judgements_are_measured(reader: Reader) -> None:
    (printed,) = reader.outputs["nightrank evaluate my.yaml --report report.html"]
    assert all(measure in printed for measure in ("nDCG@10", "RR@10", "R@100"))
    assert all(vertical in Path("report.html").read_text() for vertical in ("accounts", "mail"))
    (other,) = (
        text for line, texts in reader.outputs.items() if "nDCG@20" in line for text in texts
    )
    assert "nDCG@20" in other


def test_the_dry_run_reports_the_added_document(reader: Reader) -> None:
    first, second = reader.outputs["nightrank nightly my.yaml --dry-run"]
    assert "1 added, 0 changed, 0 removed" in first
    assert "0 added, 0 changed, 0 removed" in second
    latest = read_results("./lake", "my", "queries").to_table()
    assert latest.num_rows == 3
    ranked = read_results("./lake", "my", generation=2).to_table()["doc_id"].to_pylist()
    assert ADDED["_id"] in ranked


def test_the_query_of_the_pages_runs_over_the_printed_views(reader: Reader) -> None:
    connection = duckdb.connect()
    connection.execute(Path("views.sql").read_text())
    for name in ("README.md", "docs/results.md"):
        (query,) = (block.text for block in fenced(page(name)) if block.language == "sql")
        answer = sorted(row[:2] for row in connection.execute(query).fetchall())
        assert answer == [("accounts", 3), ("mail", 3), ("network", 3)]
    for block in fenced(page("README.md")):
        if block.language == "python":
            exec(block.text, reader.names)
    assert reader.names["table"].num_rows > 0


def test_the_rollback_is_in_the_history_and_over(reader: Reader) -> None:
    before, after = reader.outputs["nightrank history my.yaml"]
    assert "rollback" not in before
    assert "half of the catalogue was missing" in after and "resumed" in after
    assert "rollback in force" not in reader.outputs["nightrank status my.yaml"][-1]
