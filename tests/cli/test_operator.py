"""The other verbs, as an operator uses them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import ir_measures
import pytest

from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from nightrank.config.file import load_config, load_section
from nightrank.generations.results import open_lake
from nightrank.generations.retention import collect, collectable
from tests.support.collection import Collection
from tests.support.lake import run, table
from tests.support.program import nightrank

REPOSITORY = Path(__file__).resolve().parents[2]
VERBS = ("init", "run", "status", "verify", "results", "export", "evaluate", "train_reranker")


@pytest.fixture(scope="module")
def published(collection: Collection, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("published")
    (folder / "c.yaml").write_text(json.dumps(collection.config(folder / "lake")))
    run(str(folder / "c.yaml"))
    return str(folder / "c.yaml")


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert guarded(lambda **_: app(list(arguments))) == 0
    return capsys.readouterr().out


def test_results_can_be_read_by_duckdb_as_printed(published: str, capsys) -> None:
    connection = duckdb.connect()
    for name in ("ranked", "queries"):
        connection.execute(called(capsys, "results", published, "--duckdb", "--table", name))
    counts = connection.execute(
        "SELECT vertical, count(*) FROM ranked JOIN queries USING (query_id) GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert counts == [("legal", 150), ("medical", 150)]


def test_files_are_one_path_a_line_and_json_holds_the_counts(published: str, capsys) -> None:
    (path,) = called(capsys, "results", published, "--files").splitlines()
    assert Path(path).is_file()
    plain = json.loads(called(capsys, "results", published, "--json"))
    assert plain["generation"] == 1 and plain["files"] == [path]
    assert plain["counts"]["queries"]["in"] == 60


def test_an_exported_run_measures_as_evaluate_says(
    published: str, collection: Collection, tmp_path: Path, capsys
) -> None:
    target = tmp_path / "run.txt"
    called(capsys, "export", published, "--trec", str(target), "--full")
    last = json.loads(called(capsys, "evaluate", published, "--json").splitlines()[-1])
    measure = ir_measures.parse_measure("nDCG@10")
    qrels = [ir_measures.Qrel(q, d, r) for q, d, r in collection.qrels]
    found = ir_measures.calc_aggregate([measure], qrels, ir_measures.read_trec_run(str(target)))
    assert found[measure] == pytest.approx(last["measures"]["nDCG@10"]["reranked"])
    assert set(last["measures"]["nDCG@10"]) == {"first_stage", "reranked", "ceiling"}


def test_the_exported_rank_is_the_published_one(published: str, tmp_path: Path, capsys) -> None:
    target = tmp_path / "run.txt"
    called(capsys, "export", published, "--trec", str(target))
    rows = [line.split() for line in target.read_text().splitlines()]
    ranked = table(load_config(published).root).to_pylist()
    assert [(r[0], r[2], int(r[3])) for r in sorted(rows, key=lambda r: (r[0], int(r[3])))] == [
        (row["query_id"], row["doc_id"], row["rank"]) for row in ranked
    ]


def test_evaluate_needs_neither_inputs_nor_a_plan(
    collection: Collection, tmp_path: Path, write_config: Callable[..., str], capsys
) -> None:
    plain = collection.config(tmp_path / "lake")
    called(capsys, "run", write_config(plain))
    moved = {**plain, "corpus": {"path": "gone.jsonl"}, "results": {"keep": 7}}
    config = write_config(moved, "moved.yaml")
    measured = json.loads(called(capsys, "evaluate", config, "--json").splitlines()[-1])
    assert measured["measures"]["nDCG@10"]["reranked"] > 0
    assert json.loads(called(capsys, "status", config, "--json"))["unfinished"] == []


def test_status_tells_the_next_command(
    collection: Collection, tmp_path: Path, write_config: Callable[..., str], capsys
) -> None:
    config = write_config(collection.config(tmp_path / "lake"))
    called(capsys, "run", config, "--to", "merge")
    text = called(capsys, "status", config)
    assert "nothing published" in text and f"next: nightrank run {config}" in text
    called(capsys, "run", config)
    plain = json.loads(called(capsys, "status", config, "--json"))
    assert (plain["generation"], plain["index_generation"], plain["unfinished"]) == (1, 1, [])
    assert plain["next"] == f"nightrank results {config}"


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_verify_finds_damage(
    collection: Collection, tmp_path: Path, write_config: Callable[..., str], capsys, damage: str
) -> None:
    config = write_config(collection.config(tmp_path / "lake"))
    path = Path(run(config)["files"][0])
    called(capsys, "verify", config)
    good = path.read_bytes()
    if damage == "flip":
        path.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    elif damage == "truncate":
        path.write_bytes(good[:-1])
    else:
        path.unlink()
    assert guarded(lambda **_: app(["verify", config])) == 7
    assert "E_CORRUPT" in capsys.readouterr().err


def test_verify_finds_a_rank_that_was_swapped_by_a_writer_with_matching_digests(
    published: str,
) -> None:
    import pyarrow as pa

    from nightrank.errors import NightrankError
    from nightrank.generations.verification import _check_lists

    good = table(load_config(published).root)
    _check_lists(good, "good")
    order = [1, 0, *range(2, good.num_rows)]
    with pytest.raises(NightrankError, match="ranks do not run"):
        _check_lists(good.take(pa.array(order)), "bad")
    at = good.schema.get_field_index("doc_id")
    doubled = good.set_column(at, "doc_id", pa.array(["same"] * good.num_rows))
    flat = doubled.set_column(
        good.schema.get_field_index("score"), "score", pa.array([1.0] * good.num_rows, pa.float32())
    )
    with pytest.raises(NightrankError, match="out of order"):
        _check_lists(flat, "bad")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_a_module_with_help(verb: str, capsys) -> None:
    assert "Usage" in called(capsys, verb.replace("_", "-"), "--help")


def test_a_verb_runs_as_a_module(published: str) -> None:

    done = subprocess.run(
        [sys.executable, "-m", "nightrank", "status", published],
        capture_output=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0 and b"generation 1 is published" in done.stdout


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("configs/*.yaml")), ids=lambda p: p.name)
def test_every_config_loads(path: Path) -> None:
    if path.name.endswith("_reranker.yaml"):
        from nightrank.config.training import TrainConfig

        load_section(TrainConfig, str(path))
    else:
        load_config(str(path))


def test_verbs_load_their_libraries_when_they_run() -> None:
    """`nightrank --help` imports none of them: 0.3 s instead of 1.2."""
    script = """
import sys, nightrank.cli.app
loaded = {"numpy", "pyarrow", "pydantic", "yaml", "ray", "torch", "scipy"} & set(sys.modules)
assert not loaded, loaded
"""
    asked = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr


def test_toy_runs_never_import_torch_nor_pandas(published: str) -> None:
    script = """
import sys, nightrank.cli.app
from nightrank.cli.terminal import guarded
sys.argv[1:] = ["run", sys.argv[1], "--set", "results.keep=2", "--to", "publish"]
assert guarded(nightrank.cli.app.app) == 0
found = {"torch", "ray", "transformers", "pandas"} & set(sys.modules)
assert not found, found
import pandas, pyarrow as pa
assert pa.array(pandas.Series([1.0, None]), from_pandas=True).null_count == 1
"""

    done = subprocess.run(
        [sys.executable, "-c", script, published], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr


def test_nothing_published_is_said_so(
    collection: Collection, tmp_path: Path, write_config: Callable[..., str]
) -> None:
    done = nightrank("results", write_config(collection.config(tmp_path / "none")))
    assert done.returncode == 4 and "nothing published yet" in done.stderr


def test_probes_of_roles_that_may_not_delete_are_collected(published: str) -> None:
    loaded = load_config(published)
    store = open_lake(loaded.root, loaded.name)
    for name in ("old", "new"):
        store.put_if_absent(f"_probe/{name}", b"")
    then = time.time() - 8 * 86_400
    os.utime(store.path("_probe/old"), (then, then))
    assert ("_probe", ("_probe/old",)) in [(one.path, one.keys) for one in collectable(store, 1, 7)]
    collect(store, 1, 7)
    assert list(store.files("_probe")) == ["new"]


def test_the_version_is_that_of_the_package(capsys) -> None:
    import importlib.metadata

    for option in ("--version", "-V"):
        assert called(capsys, option) == f"nightrank {importlib.metadata.version('nightrank')}\n"
    done = nightrank("--version")
    assert done.stdout.startswith("nightrank ") and done.returncode == 0


def test_a_report_is_written_where_it_is_asked_for(
    published: str, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    target = tmp_path / "r.html"
    said = called(capsys, "evaluate", published)
    kept = Path(said.splitlines()[-1].removeprefix("report: ")).read_bytes()
    assert f"report: {target}" in called(capsys, "evaluate", published, "--report", "~/r.html")
    assert target.read_bytes() == kept and b"<html" in kept
    target.write_text("an older one")
    last = called(capsys, "evaluate", published, "--report", str(target), "--json").splitlines()[-1]
    assert "measures" in json.loads(last) and target.read_bytes() == kept
    assert os.listdir(tmp_path) == ["r.html"]


@pytest.mark.parametrize(
    "arguments", [["evaluate", "--report"], ["export", "--full", "--trec"]], ids=lambda a: a[0]
)
def test_a_file_that_cannot_be_written_is_refused_before_any_work(
    published: str, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    from nightrank.flow import offline_rerank
    from nightrank.generations import results

    def work(*_: object) -> None:
        raise AssertionError("worked for a file that cannot be written")

    monkeypatch.setattr(offline_rerank, "run_evaluation", work)
    monkeypatch.setattr(results, "full_lists", work)
    verb, *options = arguments
    for place, words in ((tmp_path / "no" / "x", "does not exist"), (tmp_path, "found a folder")):
        assert guarded(lambda place=place, **_: app([verb, published, *options, str(place)])) == 2
        assert words in capsys.readouterr().err


def test_the_evaluation_is_a_table_like_the_others(
    published: str, collection: Collection, tmp_path: Path, write_config, capsys
) -> None:
    measured = json.loads(called(capsys, "evaluate", published, "--json").splitlines()[-1])
    connection = duckdb.connect()
    connection.execute(called(capsys, "results", published, "--duckdb", "--table", "evaluation"))
    mean = connection.execute(
        "SELECT avg(value) FROM evaluation WHERE run = 'reranked' AND measure = 'nDCG@10'"
    ).fetchone()
    assert mean == (pytest.approx(measured["measures"]["nDCG@10"]["reranked"]),)
    (path,) = called(capsys, "results", published, "--files", "--table", "evaluation").split()
    plain = json.loads(called(capsys, "results", published, "--json", "--table", "evaluation"))
    assert plain["files"] == [path] and plain["rows"] == 60 * 3 * 3
    assert "evaluation: 540 rows in 1 file(s)" in called(
        capsys, "results", published, "--table", "evaluation"
    )
    for sets, code, words in (
        (["evaluate.qrels=null"], 2, "no judgements given"),
        (["evaluate.measures=[R@7]"], 4, "was not evaluated by these"),
    ):
        options = [part for one in sets for part in ("--set", one)]
        arguments = ["results", published, "--table", "evaluation", *options]
        assert guarded(lambda arguments=arguments, **_: app(arguments)) == code
        assert words in capsys.readouterr().err
    assert guarded(lambda **_: app(["results", published, "--table", "rankd"])) == 2
    assert "did you mean 'ranked'?" in capsys.readouterr().err
