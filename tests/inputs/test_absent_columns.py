"""JSONL whose rows leave columns out: every row is read by its own keys."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from nightrank.errors import NightrankError
from nightrank.generations import accounting
from nightrank.inputs.splits import list_inputs, plan_splits
from nightrank.runtime.executor import SerialExecutor, run_stage
from nightrank.runtime.progress import Progress
from nightrank.stages import ingest
from nightrank.storage.dataset import Manifest
from nightrank.storage.store import Store
from tests.support.input_files import read, reasons, source_of, write

# More than a mebibyte of rows that have an id and a text, and nothing else.
PLAIN = [{"_id": f"p{i}", "text": "x" * 400} for i in range(3000)]


def ingested(tmp_path: Path, kind: str, target: int = 1 << 30, **settings: Any) -> Manifest:
    """Ingests `in` under `tmp_path` and checks it, as a run does."""
    source = source_of(kind, tmp_path / "in", **settings)
    files = list_inputs(source.path)
    splits = plan_splits(files, {}, target, by_file=source.on_bad_file == "reject")
    stage = ingest.STAGE.stage("inputs", ingest.Inputs.of("source", source, splits, {}))
    lake = Store(tempfile.mkdtemp(dir=tmp_path))
    manifest = run_stage(stage, lake, SerialExecutor(), Progress(quiet=True))
    accounting.check_input(kind, source, manifest)
    return manifest


@pytest.mark.parametrize("target", [1 << 30, 100_000])
def test_columns_that_come_late(tmp_path: Path, target: int) -> None:
    late = {"_id": "late", "title": "T", "text": "t", "year": 1999}
    path = write(tmp_path / "c.jsonl", [*PLAIN, late])
    accepted, rejects = read(path, target=target, attributes={"year": "int64"})
    assert not rejects and len(accepted) == 3001
    assert (accepted[-1]["title"], accepted[-1]["year"]) == ("T", 1999)
    assert {(row["title"], row["year"]) for row in accepted[:-1]} == {("", None)}
    asked = write(tmp_path / "q.jsonl", [*PLAIN, {"query_id": "q", "text": "t", "vertical": "v"}])
    accepted, _ = read(asked, "queries", target=target)
    assert (accepted[-1]["query_id"], accepted[-1]["vertical"]) == ("q", "v")


def test_the_first_usual_name_that_a_row_has_is_its_id(tmp_path: Path) -> None:
    ids = [{"id": 1}, {"doc_id": "b"}, {"_id": "c", "id": "no"}, {"id": "no", "doc_id": "d"}]
    ids += [{"_id": None, "id": "no"}, {"docno": "no"}]
    path = write(tmp_path / "c.jsonl", [{**id, "text": "t"} for id in ids])
    accepted, rejects = read(path)
    assert [row["doc_id"] for row in accepted] == ["1", "b", "c", "d"]
    assert reasons(rejects) == [(4, "null_id"), (5, "null_id")]


def test_a_whole_file_without_ids_or_texts_is_refused_with_its_keys(tmp_path: Path) -> None:
    for row in ({"name": "a", "text": "b"}, {"_id": "a", "body": "b"}):
        path = write(tmp_path / "c.jsonl", [row] * 3)
        with pytest.raises(NightrankError, match=f"not found; found: .*{next(iter(row))}"):
            read(path)
        accepted, rejects = read(path, on_bad_file="reject")
        assert not accepted and reasons(rejects) == [(-1, "unreadable_file")]


@pytest.mark.parametrize("target", [1 << 30, 200])
def test_a_declared_column_that_no_row_has_is_refused(tmp_path: Path, target: int) -> None:
    rows = [{"_id": str(i), "text": "t", "n": 1} for i in range(20)]
    write(tmp_path / "in" / "a.jsonl", rows)
    write(tmp_path / "in" / "b.jsonl", [{"_id": "b", "text": "t"}])
    assert ingested(tmp_path, "corpus", target, attributes={"n": "int64"}).total("accepted") == 21
    for settings, name in (
        ({"attributes": {"year": "int64", "n": "int64"}}, "year"),
        ({"columns": {"title": "heading"}}, "heading"),
    ):
        with pytest.raises(NightrankError, match=f"'{name}' is in no row of the corpus") as caught:
            ingested(tmp_path, "corpus", target, **settings)
        assert caught.value.exit_code == 4
    # A null is a value: the column is known.
    write(tmp_path / "in" / "b.jsonl", [{"_id": "b", "text": "t", "year": None}])
    assert ingested(tmp_path, "corpus", target, attributes={"year": "int64"}).total("accepted")


def test_a_bad_file_that_is_left_out_has_no_columns(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.jsonl", [{"_id": "a", "text": "t"}])
    (tmp_path / "in" / "b.csv").write_bytes(b"nothing")
    settings = {"on_bad_file": "reject", "reject_budget": 1.0}
    with pytest.raises(NightrankError, match="'year' is in no row"):
        ingested(tmp_path, "corpus", attributes={"year": "int64"}, **settings)


def test_a_feed_of_deletions_needs_neither_texts_nor_attributes(tmp_path: Path) -> None:
    delete = {"_id": "a", "op": "delete", "sequence": 2}
    write(tmp_path / "in" / "a.jsonl", [delete])
    settings: dict[str, Any] = {"feed": True, "attributes": {"year": "int64"}}
    assert ingested(tmp_path, "corpus", **settings).total("accepted") == 1
    upsert = {"_id": "b", "op": "upsert", "sequence": 3, "text": "t"}
    write(tmp_path / "in" / "a.jsonl", [delete, upsert])
    with pytest.raises(NightrankError, match="'year' is in no row"):
        ingested(tmp_path, "corpus", **settings)


def test_values_that_only_pythons_json_writes(tmp_path: Path) -> None:
    big = 2**70 + 1
    lines = [
        '{"_id": "a", "text": "t", "unused": NaN, "more": [Infinity, -Infinity]}',
        '{"_id": "b", "text": "NaN", "x": NaN, "s": "Infinity"}',
        '{"_id": "c", "text": NaN}',
        '{"_id": NaN, "text": "t"}',
        '{"_id": "d", "text": "t", "year": NaN}',
        '{"_id": "e", "text": "\\ud800", "unused": NaN}',
        '{"_id": "f", "text": NaN',
        json.dumps({"_id": big, "text": "t", "code": big}),
        '{"_id": "g", "text": "no", "text": "t", "code": 1e300}',
        json.dumps({"_id": "h", "text": "t", "year": big}),
        '{"_id": "i", "text": "t", "code": ' + "9" * 30 + ', "unused": ' + "9" * 5000 + "}",
        '{"_id": "j", "text": "t", "unused": 1e999, "more": ' + "9" * 400 + "}",
        '{"_id": "k", "text": "t", "year": -1e999}',
        '{"_id": ' + "9" * 400 + ', "text": "t"}',
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    types = {"year": "int64", "code": "string"}
    accepted, rejects = read(tmp_path / "c.jsonl", attributes=types)
    assert [(r["doc_id"], r["text"]) for r in accepted] == [
        ("a", "t"),
        ("b", "NaN"),
        (str(big), "t"),
        ("g", "t"),
        ("j", "t"),
        ("9" * 400, "t"),
    ]
    assert [r["code"] for r in accepted] == [None, None, str(big), "1e+300", None, None]
    assert reasons(rejects) == [
        (2, "bad_type"),
        (3, "bad_type"),
        (4, "bad_attribute"),
        (5, "invalid_utf8"),
        (6, "bad_json"),
        (9, "bad_attribute"),
        (10, "bad_json"),
        (12, "bad_attribute"),
    ]
