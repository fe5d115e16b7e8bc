"""The snippets of docs/python-api.md run, in order; its tables name what there is."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

import nightrank
from tests.support.collection import Collection
from tests.support.pages import blocks, page

TEXT = page("docs/python-api.md")


def test_the_snippets_run_in_order(
    small: Collection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    config = {**small.config("lake"), "name": "my", "retrieve": {"depth": 60}}
    (tmp_path / "my.yaml").write_text(json.dumps(config))
    names: dict[str, Any] = {}
    for snippet in blocks("python", TEXT):
        exec(snippet, names)
    assert names["result"].generation == 1 and names["frame"]["score"].notna().all()
    assert names["ranked"].num_rows == 60 and names["rejects"].count_rows() == 0
    assert names["large"].pairs == 10_000_000 * 20
    assert names["changes"].pairs.to_score == 0
    assert (tmp_path / "report.html").read_bytes() == names["evaluation"].html()
    assert "E_EMPTY 4 missing.jsonl correct the path" in capsys.readouterr().out


def test_the_tables_name_what_there_is() -> None:
    rows = re.findall(r"^\| `(\w+)\(([^)]*)\)`", TEXT, re.MULTILINE)
    functions = {name for name in nightrank.__all__ if name[0].islower()}
    assert {name for name, _ in rows} == functions
    for name, arguments in rows:
        shown = [argument for argument in arguments.split(", ") if argument != "*"]
        assert shown == list(inspect.signature(getattr(nightrank, name)).parameters), name
    table = TEXT.split("| attribute |")[1].split("\n\n")[0]
    attributes = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\|([^|]*)\|", table, re.M))))
    fields = {field.name for field in dataclasses.fields(nightrank.Result)} - {"lake"}
    assert attributes | {"stopped_after", "not_measured"} == fields | {"already_published"}
