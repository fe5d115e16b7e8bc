"""`init`: what it writes reads back as given, and says what the first rows hold."""

from __future__ import annotations

import csv
import datetime
import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightrank.cli.app import app
from nightrank.cli.init import experiment_name
from nightrank.cli.terminal import guarded
from nightrank.config.file import load_config
from nightrank.config.yaml_text import parse, written
from nightrank.diagnosis.first_rows import PIECE_BYTES, first_rows
from nightrank.errors import NightrankError
from nightrank.generations.planning import make_plan
from nightrank.generations.results import open_lake
from tests.support.collection import write_jsonl
from tests.support.lake import run

TOYS = (
    "encoder.model=toy:bag-of-words",
    "rerank.model=toy:overlap",
    "cluster.executor=serial",
)
ODD = (
    *("*.jsonl", "data #2", "a: b", "a:b", "key:", "- x", "-x", "&a", "!tag", "%x", "@x", "`x`"),
    *("? x", "| x", "> x", "[x]", "{x: y}", "x, y", '"x"', "'x'", "it's", "back\\slash", "a\\nb"),
    *("two  blanks", " leading", "trailing ", "line\nfeed", "tab\tbed", "carriage\rreturn"),
    *(
        "null",
        "./~x",
        "true",
        "no",
        "2024",
        "1e3",
        "0x10",
        "012",
        "1.5",
        ".5",
        "2024-01-01",
        "=",
        "<<",
    ),
    *(
        "语料/文档",
        "Ünïcode",
        "🙂",
        "\u2028",
        "\u0085",
        "\x1b[1m",
        "\x7f",
        "\ufeff",
        "s3://b/k x#1",
    ),
    *("s3://bucket/year=2026/*.parquet", "x" * 300, "https://h/p", "a/b-c_d.e~f+g", "x #y", "x#y"),
)


def init(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    assert guarded(lambda **_: app(["init", *arguments])) == code
    said = capsys.readouterr()
    return said.err if code else said.out


def uncommented(path: Path, key: str) -> None:
    """Makes a suggested line of the config count."""
    text = path.read_text()
    assert f"  # {key}: " in text
    path.write_text(text.replace(f"  # {key}: ", f"  {key}: ", 1))


@pytest.mark.parametrize("value", ODD)
def test_a_written_text_reads_back_in_any_place(value: str) -> None:
    text = written(value)
    assert "\n" not in text
    for document in (
        f"k: {text}",
        f"k: {text}  # note",
        f"k: {{in: {text}, b: 1}}",
        f"k: [{text}]",
    ):
        found: Any = parse(document, "test")[0]["k"]
        found = found["in"] if isinstance(found, dict) else found
        assert (found[0] if isinstance(found, list) else found) == value


@pytest.mark.parametrize("value", ODD)
def test_any_path_is_written_as_it_was_given(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    if value.startswith(("s3://", "https://")):  # Looking there takes its time: not for every one.
        options = ["--root", value]
    else:
        options = [f"--corpus={value}", f"--queries={value}", f"--qrels={value}", "--root=/r"]
    init(capsys, "c.yaml", *options)
    config = load_config("c.yaml")
    if options[0] == "--root":
        assert config.root == value
    else:
        found = (config.corpus.path, config.queries.path, config.evaluate.qrels)
        assert [os.path.basename(path or "") for path in found] == [os.path.basename(value)] * 3


def test_names_are_valid_and_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stems = [
        "2024",
        "My Own",
        "语料",
        "文档",
        "x" * 200,
        "x" * 199,
        "-lead",
        "..",
        "Año",
        "news-语",
        "1e5",
    ]
    names = []
    for stem in stems:
        target = tmp_path / f"{stem}.yaml"
        init(capsys, str(target))
        names.append(load_config(str(target)).name)
    assert names[:2] == ["2024", "my-own"] and names[8] == "ano" and names[10] == "1e5"
    assert len(set(names)) == len(names)
    assert experiment_name("scifact") == "scifact"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["c.yaml", "--corpus", "a${HOME}"], "--corpus contains ${"),
        (["c.yaml", "--corpus", "caf\udce9.csv"], "--corpus is not valid UTF-8"),
        (["c.yaml", "--corpus", ""], "--corpus is empty"),
        (["no/such/folder/c.yaml"], "cannot write"),
        (["x" * 300 + ".yaml"], "File name too long"),
        (["there.yaml"], "exists"),
        (["c.yaml", "--corpus", ".", "--root", "./lake"], "overlap"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.yaml").write_text("mine")
    said = init(capsys, *arguments, code=2)
    assert words in said and said.count("\n") == 1
    assert Path("there.yaml").read_text() == "mine" and os.listdir() == ["there.yaml"]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows in the format that a file's name says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
        return
    if path.suffix == ".jsonl":
        write_jsonl(path, rows)
        return
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(
            file, list(rows[0]), dialect="excel", delimiter=",\t"[path.suffix == ".tsv"]
        )
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "jsonl.gz", "csv", "tsv"])
def test_columns_are_found_and_what_is_suggested_works(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    documents = [
        {"docno": f"d{i}", "headline": "a title", "body": f"river bank number {i}"}
        | {"year": 1990 + i, "price": i / 2, "day": "2026-01-31", "zip": f"0{i}", "score": 0.5}
        for i in range(5)
    ]
    queries = [
        {"qid": f"q{i}", "question": "river bank", "category": ["law", "health"][i % 2]}
        for i in range(4)
    ]
    write(tmp_path / f"docs.{suffix}", documents)
    write(tmp_path / f"queries.{suffix}", queries)
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td1\t1\n")
    arguments = ["--corpus", f"docs.{suffix}", "--queries", f"queries.{suffix}"]
    said = init(capsys, "my.yaml", *arguments, "--qrels", "qrels.tsv")
    assert "next: nightrank doctor my.yaml, then nightrank plan my.yaml" in said
    assert "2 judgements of 2 queries" in said and "'score'" in said
    text = Path("my.yaml").read_text()
    assert "verticals in the first rows: health, law" in text
    uncommented(Path("my.yaml"), "attributes")
    config = load_config("my.yaml")
    assert config.corpus.columns == {"id": "docno", "title": "headline", "text": "body"}
    assert config.queries.columns == {"id": "qid", "text": "question", "vertical": "category"}
    assert config.corpus.attributes == {
        "year": "int64",
        "price": "float64",
        "day": "date32",
        "zip": "string",
    }
    summary = run("my.yaml", *TOYS, "results.document_columns=[year, zip]")
    assert summary["documents"]["rejected"] == 0 and summary["rows"]["ranked"] == 20


def test_usual_names_need_no_columns_and_a_usual_vertical_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "c.jsonl", [{"_id": "a", "text": "x y", "body": "other"}])
    write_jsonl(tmp_path / "q.jsonl", [{"_id": "q", "text": "x", "vertical": "a: b #1"}])
    init(capsys, "c.yaml", "--corpus", "c.jsonl", "--queries", "q.jsonl")
    config = load_config("c.yaml")
    assert config.corpus.columns == {} == config.queries.columns
    assert config.corpus.attributes == {}
    assert '# verticals in the first rows: "a: b #1"' in Path("c.yaml").read_text()


def test_what_looks_wrong_is_said_without_quoting_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    rows: list[dict[str, Any]] = [{"_id": i, "text": "secret words"} for i in ("a", "a", None)]
    write_jsonl(tmp_path / "c.jsonl", rows)
    write_jsonl(tmp_path / "q.jsonl", [{"_id": 7.0, "text": "secret words"}])
    (tmp_path / "qrels.txt").write_text("7 0 a 1\n")
    options = ["--corpus", "c.jsonl", "--queries", "q.jsonl", "--qrels", "qrels.txt"]
    said = init(capsys, "c.yaml", *options)
    assert "1 of the first 3 document ids ('_id') are empty" in said
    assert "1 of the first 3 document ids ('_id') are repeated" in said
    assert "fractions" in said and "none of the first 1 query ids ('_id') is in" in said
    # A collection without a header: its first row is text.
    (tmp_path / "c.tsv").write_text("1\tsecret words of a document\n2\tother\n")
    said += init(capsys, "d.yaml", "--corpus", "c.tsv", "--queries", "gone.csv")
    assert "the first line is no header" in said
    assert "queries: no input files found; the path is written anyway" in said
    assert "secret" not in said + Path("d.yaml").read_text() + Path("c.yaml").read_text()


def test_column_names_cannot_break_out_of_their_comment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    odd = {"a\nroot: /etc": 1, "b # c": 2, 'it\'s: "x"': 3, "语": 4}
    write_jsonl(tmp_path / "c.jsonl", [{"_id": "a", "text": "x y", **odd}])
    write_jsonl(tmp_path / "q.jsonl", [{"_id": "q", "text": "x"}])
    init(capsys, "c.yaml", "--corpus", "c.jsonl", "--queries", "q.jsonl")
    assert load_config("c.yaml").root == "./lake"
    uncommented(Path("c.yaml"), "attributes")
    assert load_config("c.yaml").corpus.attributes == dict.fromkeys(odd, "int64")


def test_a_look_reads_a_megabyte_of_a_large_file(tmp_path: Path) -> None:
    line = json.dumps({"_id": "a", "text": "river " * 2000}) + "\n"
    path = tmp_path / "c.jsonl"
    path.write_text(line * (3 * PIECE_BYTES // len(line)) + "not JSON")
    rows = first_rows(str(path))
    assert rows.files == 1 and set(rows.columns) == {"_id", "text"}
    assert 50 < len(rows.columns["_id"]) <= 200
    table = tmp_path / "c.csv"
    table.write_text("_id,text\n" + f'a,"{"é" * 5000}"\n' * 300)
    assert len(first_rows(str(table)).columns["_id"]) > 50
    (tmp_path / "x.json").write_text("[1, 2]")
    with pytest.raises(NightrankError, match="JSON object on each line"):
        first_rows(str(tmp_path / "x.json"))


def test_the_config_plans_as_written_but_for_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "data #2" / "c.jsonl", [{"_id": "a", "text": "x y"}])
    write_jsonl(tmp_path / "q.jsonl", [{"_id": "q", "text": "x"}])
    init(capsys, "c.yaml", "--corpus", "data #2", "--queries", "q.jsonl")
    config = load_config("c.yaml", TOYS)
    (file,) = make_plan(config, open_lake(config.root, config.name)).corpus_files
    assert file.url == "data #2/c.jsonl"
    assert not re.search(r"nightrank run c.yaml", Path("c.yaml").read_text())


def test_int96_times_are_shown_as_a_run_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    late = datetime.datetime(9999, 12, 31)
    times = pa.array([late], pa.timestamp("us"))
    table = pa.table({"_id": ["a"], "text": ["x"], "at": times})
    pq.write_table(table, path, use_deprecated_int96_timestamps=True)
    rows = first_rows(str(path))
    assert rows.columns["at"] == [late] and rows.types["at"] == "timestamp"


def test_odd_values_do_not_stop_a_look(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    far = pa.array([1 << 60, -(1 << 60)], pa.int64())
    columns = {
        "_id": ["a", "b"],
        "text": ["x y", "z"],
        "far": far.view(pa.timestamp("us")),
        "took": far.view(pa.duration("us")),
        "price": pa.array([1, 2]).cast(pa.decimal128(22, 2)),
        "list": [[1], [2]],
        "large": pa.array([2**64 - 1, 0], pa.uint64()),
    }
    pq.write_table(pa.table(columns), path)
    rows = first_rows(str(path))
    assert rows.columns["_id"] == ["a", "b"] and set(rows.columns) == set(columns)
    assert rows.types["price"] == "string" and not {"list", "large"} & set(rows.types)
    write_jsonl(tmp_path / "c.jsonl", [{"_id": "a", "text": "x", "n": 10**30, "m": [1], "z": None}])
    assert rows.types["text"] == "string"
    assert first_rows(str(tmp_path / "c.jsonl")).types["z"] == "string"
    # Unicode's other line ends are characters of a field.
    (tmp_path / "c.tsv").write_text("id\ttext\n1\ta\u2028b\n2\tc\x0bd \x85e\n")
    assert first_rows(str(tmp_path / "c.tsv")).columns == {
        "id": ["1", "2"],
        "text": ["a\u2028b", "c\x0bd \x85e"],
    }
    (tmp_path / "c.tsv").write_bytes(b'id\ttext\r\n1\ta\rb\r\n\r\n2\t"c\r\n')
    assert first_rows(str(tmp_path / "c.tsv")).columns == {"id": ["1", "2"], "text": ["a\rb", '"c']}
