"""Bad input: one line, the documented exit code, and nothing published is changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from nightrank.config.file import load_config
from nightrank.generations import stored_forecast
from nightrank.generations.planning import make_plan
from nightrank.generations.results import open_lake
from tests.support.collection import Collection, write_jsonl
from tests.support.lake import execute, opened, run, table
from tests.support.program import nightrank

Spoil = Callable[[dict[str, Any], Path], None]


def corpus(*rows: Any) -> Spoil:
    def spoil(plain: dict[str, Any], folder: Path) -> None:
        path = folder / "bad.jsonl"
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        path.write_bytes(b"\n".join(lines))
        plain["corpus"] = {**plain["corpus"], "path": str(path)}

    return spoil


def queries(*rows: Any) -> Spoil:
    def spoil(plain: dict[str, Any], folder: Path) -> None:
        write_jsonl(folder / "badq.jsonl", list(rows))
        plain["queries"] = {**plain["queries"], "path": str(folder / "badq.jsonl")}

    return spoil


def setting(section: str, key: str, value: Any) -> Spoil:
    def spoil(plain: dict[str, Any], folder: Path) -> None:
        if section:
            plain[section] = {**plain.get(section, {}), key: value}
        else:
            plain[key] = value

    return spoil


def both(*spoils: Spoil) -> Spoil:
    def spoil(plain: dict[str, Any], folder: Path) -> None:
        for one in spoils:
            one(plain, folder)

    return spoil


def lake_inside_input(plain: dict[str, Any], folder: Path) -> None:
    (folder / "in").mkdir()
    (folder / "in" / "c.jsonl").write_text('{"_id": "a", "text": "b"}\n')
    plain["corpus"] = {"path": str(folder / "in")}
    plain["root"] = str(folder / "in" / "lake")


def unwritable_root(plain: dict[str, Any], folder: Path) -> None:
    (folder / "file").write_text("not a folder")
    plain["root"] = str(folder / "file" / "lake")


def lake_for_everybody(plain: dict[str, Any], folder: Path) -> None:
    lake = folder / "shared" / plain["name"]
    lake.mkdir(parents=True)
    lake.chmod(0o777)
    plain["root"] = str(folder / "shared")


def ids_of_two_types(plain: dict[str, Any], folder: Path) -> None:
    (folder / "two").mkdir()
    for name, ids in (("a", [7, 8]), ("b", ["7", "8"]), ("c", [9, 10])):
        rows = pa.table({"_id": ids, "text": ["river bank", "loan"]})
        pq.write_table(rows, folder / "two" / f"{name}.parquet")
    plain["corpus"] = {"path": str(folder / "two")}


def broken_qrels(plain: dict[str, Any], folder: Path) -> None:
    (folder / "q.tsv").write_text("one column only\n")
    plain["evaluate"] = {"qrels": str(folder / "q.tsv")}


GOOD = {"_id": "g", "text": "river bank loan"}
CASES: dict[str, tuple[Spoil, int, str]] = {
    "wrong corpus path": (setting("corpus", "path", "no/such/file.jsonl"), 4, "no/such/file.jsonl"),
    "wrong queries path": (setting("queries", "path", "nowhere/*.csv"), 4, "nowhere/*.csv"),
    "empty corpus": (corpus(), 4, "E_EMPTY"),
    "empty queries": (queries(), 4, "E_EMPTY"),
    "unknown section": (setting("", "rerankk", {}), 2, "rerankk"),
    "unknown key": (setting("corpus", "pth", "x"), 2, "corpus.pth"),
    "wrong type": (setting("retrieve", "depth", "many"), 2, "retrieve.depth"),
    "depth zero": (setting("retrieve", "depth", 0), 2, "retrieve.depth"),
    "rerank deeper than retrieve": (setting("rerank", "depth", 21), 2, "rerank.depth = 21"),
    "ids of two types": (ids_of_two_types, 4, "a.parquet and strings in"),
    "missing column": (corpus({"_id": "a", "body": "x"}), 4, "text"),
    "mapped column missing": (setting("corpus", "columns", {"text": "body"}), 4, "body"),
    "duplicate query ids": (queries({**GOOD}, {**GOOD, "text": "x y"}), 4, "query_ids"),
    "duplicate doc ids, strict": (
        both(corpus(GOOD, {**GOOD, "text": "other"}), setting("corpus", "duplicates", "strict")),
        4,
        "doc_ids",
    ),
    "too many nulls": (corpus(GOOD, {"_id": None, "text": "x"}), 4, "1 null_id"),
    "invalid utf-8": (corpus(GOOD, b'{"_id": "x", "text": "\xff\xfe"}'), 4, "invalid_utf8"),
    "a bad row is an error": (
        both(corpus(GOOD, b"{"), setting("corpus", "on_bad_row", "error")),
        4,
        "bad_json",
    ),
    "no usable vectors": (corpus(GOOD, {"_id": "x", "text": "!!! ???"}), 4, "usable vector"),
    "lake inside the input": (lake_inside_input, 2, "root"),
    "unwritable root": (unwritable_root, 3, "E_STORE_UNFIT"),
    "lake for everybody": (lake_for_everybody, 3, "chmod o-w"),
    "unknown scheme": (setting("", "root", "gs://bucket/x"), 2, "gs://"),
    "a secret in the config": (
        setting("", "storage_options", {"secret_access_key": "hunter2"}),
        2,
        "secret",
    ),
    "credentials in a path": (setting("corpus", "path", "s3://me:pw@b/x"), 2, "credentials"),
    "unknown measure": (setting("evaluate", "measures", ["nDGC@10"]), 2, "nDGC@10"),
    "broken qrels": (broken_qrels, 4, "q.tsv"),
    "unknown model": (setting("encoder", "model", "builtin:maxilm"), 3, "builtin:maxilm"),
    "model folder missing": (setting("rerank", "model", "./no/model"), 3, "no/model"),
    "unpinned hub model": (setting("encoder", "model", "org/name"), 3, "revision"),
    "bad factory": (setting("index", "factory", "Flatt"), 2, "index.factory"),
    "bad search parameters": (setting("index", "search_parameters", "nprob=3"), 2, "search_param"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_refusal_is_one_line_and_leaves_what_is_published(
    case: str,
    collection: Collection,
    tmp_path: Path,
    write_config: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil, code, words = CASES[case]
    small = {"path": str(write_jsonl(tmp_path / "c.jsonl", collection.documents[:30]))}
    plain = collection.config(tmp_path / "lake", corpus=small)
    run(write_config(plain))
    before = {p: p.read_bytes() for p in (tmp_path / "lake").rglob("results/_log/*")}
    published = table(tmp_path / "lake")
    spoil(plain, tmp_path)
    capsys.readouterr()
    found = guarded(lambda **_: app(["run", write_config(plain, "bad.yaml"), "--json"]))
    captured = capsys.readouterr()
    assert found == code, captured.err
    assert captured.err.count("\n") == 1 and captured.err.startswith("nightrank: error[E_")
    assert words in captured.err and " - " in captured.err
    assert "hunter2" not in captured.err + captured.out
    assert {p: p.read_bytes() for p in (tmp_path / "lake").rglob("results/_log/*")} == before
    assert table(tmp_path / "lake").equals(published)


def test_an_input_that_changes_after_planning_is_refused(
    collection: Collection, tmp_path: Path, write_config: Callable[..., str]
) -> None:
    from nightrank.errors import NightrankError

    path = write_jsonl(tmp_path / "c.jsonl", collection.documents[:30])
    config = write_config(collection.config(tmp_path / "lake", corpus={"path": str(path)}))
    with opened(config) as job, pytest.raises(NightrankError) as caught:
        write_jsonl(path, collection.documents[:31])
        execute(job)
    assert caught.value.code == "E_INPUT_CHANGED"


def test_empty_inputs_can_be_allowed(
    collection: Collection, tmp_path: Path, write_config: Callable[..., str]
) -> None:
    plain = collection.config(tmp_path / "lake", evaluate={"qrels": None})
    corpus()(plain, tmp_path)
    plain["corpus"]["allow_empty"] = True
    summary = run(write_config(plain))
    assert summary["queries"]["no_candidates"] == 60 and summary["rows"]["ranked"] == 0
    statuses = set(table(tmp_path / "lake", "queries")["status"].to_pylist())
    assert statuses == {"no_candidates"}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", "no-such.yaml"], 2),
        (["results", "no-such.yaml"], 2),
        (["run"], 2),
        (["frobnicate"], 2),
    ],
)
def test_usage_errors_of_the_program_end_with_2_and_no_traceback(
    arguments: list[str], code: int
) -> None:
    done = nightrank(*arguments)
    assert done.returncode == code and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--from", "rerankk"], "rerankk"),
        (["--to", "x"], "stages:"),
        (["--set", "rerank"], "KEY=VALUE"),
        (["--set", "rerank.depht=3"], "depht"),
        (["--set", "rerank.².depth=3"], "²"),
    ],
)
def test_bad_options_name_what_is_known(
    collection: Collection,
    tmp_path: Path,
    write_config: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    extra: list[str],
    words: str,
) -> None:
    config = write_config(collection.config(tmp_path / "lake"))
    assert guarded(lambda **_: app(["run", config, *extra])) == 2
    assert words in capsys.readouterr().err


def test_a_run_that_its_disk_has_no_room_for_writes_nothing(
    collection: Collection, tmp_path: Path, write_config: Callable[..., str]
) -> None:
    root = tmp_path / "lake"
    config = write_config(collection.config(root))
    loaded = load_config(config)
    store = open_lake(loaded.root, loaded.name)
    told = {"seconds": 1.0, "stages": {}, "pairs": 1, "bytes": 1 << 60}
    counts = {"documents": {"kept": 1}, "queries": {"kept": 1}}
    assert stored_forecast.keep(store, make_plan(loaded, store).folder, told | counts)
    refused = nightrank("run", config)
    assert refused.returncode == 3 and "error[E_HEADROOM]" in refused.stderr
    assert "its forecast" in refused.stderr and len(refused.stderr.strip().splitlines()) == 1
    assert not list(root.rglob("_data"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["status", "--set", "root=queries.jsonl"], 3, "Not a directory"),
        (["results", "--set", "root=queries.jsonl/lake"], 3, "Not a directory"),
        (["history", "--set", f"root={'x' * 300}"], 3, "File name too long"),
        (["gc", "--set", "root=queries.jsonl"], 3, "Not a directory"),
        (["run", "--set", "root=queries.jsonl"], 3, "Not a directory"),
        (["export", "--hive", "queries.jsonl"], 3, "Not a directory"),
        (["export", "--hive", ""], 2, "the path is empty"),
        (["results", "--generation", "²"], 2, "or a day, found '²'"),
        (["rollback", "--reason", "r", "--to", "²"], 2, "or a day, found '²'"),
        (["rank", "--index-generation", "0"], 4, "generation 0 of index does not exist"),
    ],
)
def test_places_and_numbers_that_cannot_be_end_in_one_line(
    collection: Collection,
    tmp_path: Path,
    write_config: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(collection.folder)
    config = write_config(collection.config(tmp_path / "lake"))
    if arguments[0] == "export":
        run(config)
    verb, *options = arguments
    assert guarded(lambda **_: app([verb, config, *options])) == code
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1
