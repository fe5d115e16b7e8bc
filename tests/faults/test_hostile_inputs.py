"""Malformed data, whatever its form: an exit code of the table, one line, every row accounted for.

600 examples: 240 of rows, 160 of files, 200 of configs; about one in eight is ranked to the end.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.config_keys import keys
from tests.support.hostile import (
    Made,
    check,
    damaged,
    delimited,
    files,
    jsonl,
    lay_out,
    parquet,
    play,
    policies,
    setting,
    spoiled_text,
)

COLUMNS = ["_id", "text", "x"]
GOOD = {
    "corpus": [Made(b'{"_id": "d", "text": "river bank loan", "x": 1}\n', ".jsonl", 1)],
    "queries": [Made(b'{"_id": "q", "text": "river bank", "x": 1}\n', ".jsonl", 1)],
}
CONFIG = """
name: tiny
root: lake
corpus:
  path: corpus
  attributes:
    x: int64
queries:
  path: queries
encoder:
  model: toy:bag-of-words
index:
  factory: Flat
retrieve:
  depth: 5
  bm25:
    weight: 0.3
rerank:
  - model: toy:overlap
    depth: 3
results:
  keep: 2
  document_columns: [x]
cluster:
  executor: serial
  threads_per_worker: 1
"""
numbers = itertools.count()
pytestmark = pytest.mark.timeout(600)


def steady(examples: int) -> settings:
    """The same examples everywhere: what is random is left to `make torture`."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def fresh(factory: pytest.TempPathFactory) -> Path:
    folder = factory.getbasetemp() / f"example{next(numbers)}"
    folder.mkdir()
    return folder


def judge(folder: Path, kind: str, made: list[Made], policy: dict[str, Any], whole: bool) -> int:
    """Runs one source that is bad beside one that is good; returns the exit code."""
    plain = {**yaml.safe_load(CONFIG), "root": str(folder / "lake")}
    for name in ("corpus", "queries"):
        path = lay_out(folder / name, made if name == kind else GOOD[name])
        plain[name] = {"path": path, **(policy if name == kind else {})}
    plain["results"] = {}
    (folder / "config.yaml").write_text(json.dumps(plain))
    counts = [one.rows for one in made]
    known = sum(n or 0 for n in counts) if None not in counts else None
    # Of a file that was left out the number of rows is unknown.
    certain = known if policy["on_bad_file"] == "error" else None
    ending = play(str(folder / "config.yaml"), whole)
    check(ending, whole, {name: certain if name == kind else 1 for name in GOOD})
    return ending.code


@pytest.mark.parametrize("kind", ["corpus", "queries"])
@pytest.mark.parametrize("form", [jsonl, delimited, parquet], ids=lambda form: form.__name__)
def test_hostile_rows(tmp_path_factory: pytest.TempPathFactory, kind: str, form: Any) -> None:
    codes: Counter[int] = Counter()

    @steady(40)
    @given(st.data())
    def example(data: st.DataObject) -> None:
        whole = data.draw(st.integers(0, 7)) == 0
        policy = data.draw(policies(kind, strict=not whole))
        columns = [*COLUMNS, *policy["attributes"]]
        made = data.draw(files(form(columns), columns))
        codes[judge(fresh(tmp_path_factory), kind, made, policy, whole)] += 1

    example()
    assert set(codes) == {0, 4} and min(codes.values()) > 4, codes


@pytest.mark.parametrize("kind", ["corpus", "queries"])
def test_damaged_files(tmp_path_factory: pytest.TempPathFactory, kind: str) -> None:
    codes: Counter[int] = Counter()

    @steady(80)
    @given(st.data())
    def example(data: st.DataObject) -> None:
        policy = data.draw(policies(kind, strict=False))
        made = data.draw(st.lists(damaged([*COLUMNS, *policy["attributes"]]), max_size=2))
        whole = data.draw(st.integers(0, 9)) == 0
        codes[judge(fresh(tmp_path_factory), kind, made, policy, whole)] += 1

    example()
    assert set(codes) == {0, 4} and min(codes.values()) > 8, codes


@pytest.mark.parametrize("by", ["text", "setting"])
def test_hostile_configs(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    codes: Counter[int] = Counter()
    known = dict(keys())

    @steady(100)
    @given(st.data())
    def example(data: st.DataObject) -> None:
        folder = fresh(tmp_path_factory)
        monkeypatch.chdir(folder)
        for name, made in GOOD.items():
            lay_out(folder / name, made)
        text, sets = CONFIG.strip(), []
        whole = data.draw(st.integers(0, 3)) == 0
        if by == "text":
            spoiled = data.draw(spoiled_text(text))
        else:
            spoiled = text.encode()
            sets = data.draw(st.lists(setting(known), min_size=1, max_size=2))
        (folder / "config.yaml").write_bytes(spoiled)
        ending = play(str(folder / "config.yaml"), whole, sets)
        check(ending, whole, {})
        assert "hunter2" not in ending.said
        codes[ending.code] += 1

    example()
    assert codes[0] > 2 and codes[2] > 40, codes
