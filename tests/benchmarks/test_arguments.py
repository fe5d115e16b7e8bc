"""Benchmarks refuse what they cannot use before they measure, not after minutes."""

from __future__ import annotations

import argparse
import ast
import gzip
import importlib
import os
import random
import sys
from pathlib import Path

import pytest

from benchmarks import arguments, beir, texts
from tests.support.collection import Collection

FOLDER = Path(beir.__file__).parent
PROGRAMS = [p for p in sorted(FOLDER.rglob("*.py")) if "ArgumentParser(" in p.read_text()]


def calls(path: Path) -> set[str]:
    """Names of the functions that a file calls."""
    found = [n.func for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    return {f.id if isinstance(f, ast.Name) else getattr(f, "attr", "") for f in found}


def main_of(path: Path, monkeypatch: pytest.MonkeyPatch, *argv: str) -> None:
    module = ".".join(("benchmarks", *path.relative_to(FOLDER).with_suffix("").parts))
    monkeypatch.setattr(sys, "argv", [module, *argv])
    importlib.import_module(module).main()


def with_option(*names: str) -> list[Path]:
    # `quality.arguments` is what `recipe` parses with.
    return [p for p in PROGRAMS if calls(p) & set(names)]


def test_no_program_has_an_out_or_data_of_its_own() -> None:
    own = [p.name for p in PROGRAMS if any(f'"--{o}"' in p.read_text() for o in ("out", "data"))]
    assert own == []
    assert len(with_option("add_out")) >= 14 and len(with_option("add_data")) >= 8


@pytest.mark.parametrize("program", with_option("add_out"), ids=lambda p: p.stem)
def test_results_that_cannot_be_written_are_refused_at_the_start(
    program: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        main_of(program, monkeypatch, "--out", str(tmp_path / "file" / "results"))
    assert ended.value.code == 2
    assert f"cannot write results into {tmp_path}/file/results" in capsys.readouterr().err


@pytest.mark.parametrize("program", with_option("add_data", "add_collection"), ids=lambda p: p.stem)
def test_a_folder_that_is_no_collection_is_refused_with_the_layout_that_is_wanted(
    program: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main_of(program, monkeypatch, "--data", str(tmp_path))
    assert ended.value.code == 2
    assert beir.LAYOUT in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main_of(program, monkeypatch, "--help")
    assert beir.LAYOUT in " ".join(capsys.readouterr().out.split())


def parser_with(add: str, *more: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    getattr(arguments, add)(parser, *more)
    return parser


def test_a_folder_for_results_is_created(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "results"
    assert parser_with("add_out").parse_args(["--out", str(folder)]).out == folder
    assert folder.is_dir() and not os.listdir(folder)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two collections: `plain`, and `packed`, which is compressed and has judgements."""
    plain = Collection(tmp_path / "data" / "plain", documents=20, queries=5).folder
    packed = Collection(tmp_path / "data" / "packed", documents=20, queries=5).folder
    for part in beir.PARTS:
        file = packed / f"{part}.jsonl"
        (packed / f"{part}.jsonl.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    (packed / "qrels").mkdir()
    (packed / "qrels.tsv").rename(packed / "qrels" / "test.tsv")
    assert plain.parent == packed.parent
    return plain.parent


def test_collections_are_read_compressed_or_not(data: Path) -> None:
    assert [folder.name for folder in beir.collections(data)] == ["packed", "plain"]
    plain, packed = (list(beir.rows(data / name, "corpus")) for name in ("plain", "packed"))
    assert len(plain) == len(packed) >= 20 and plain[0].keys() >= {"_id", "text"}
    assert parser_with("add_data").parse_args(["--data", str(data)]).data == data
    one = parser_with("add_collection", "test")
    assert one.parse_args(["--data", str(data / "packed")]).data == data / "packed"


@pytest.mark.parametrize(
    ("add", "folder", "said"),
    [
        (["add_data"], "packed", "name the folder above it"),
        (["add_data"], "nowhere", "no collection in"),
        (["add_collection", "test"], "plain", "qrels/test.tsv"),
        (["add_collection", "dev"], "packed", "qrels/dev.tsv"),
        (["add_collection"], ".", "corpus.jsonl"),
    ],
)
def test_what_is_missing_is_named(
    data: Path, add: list[str], folder: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser_with(*add).parse_args(["--data", str(data / folder)])
    assert said in capsys.readouterr().err


def test_a_collection_that_is_asked_for_by_name_must_be_there(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = parser_with("add_data")
    arguments.need_collections(parser, data, [("packed", "test")])
    with pytest.raises(SystemExit):
        arguments.need_collections(parser, data, [("packed", "test"), ("scifact", "test")])
    said = capsys.readouterr().err
    assert "scifact/corpus.jsonl and 2 more files" in said and beir.LAYOUT in said


def test_collections_too_small_to_draw_from_are_named(data: Path) -> None:
    with pytest.raises(SystemExit, match="no collection has 100 documents"):
        texts.mixed(data, 10, random.Random(0))
