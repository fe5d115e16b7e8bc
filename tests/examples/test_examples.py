"""The commands of every example's README run as they are written, and give what it says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pyarrow as pa
import pytest

from nightrank import read_results
from nightrank.config.file import load_config
from tests.support.pages import REPOSITORY, blocks

EXAMPLES = REPOSITORY / "examples"
FOLDERS = sorted(path.parent.name for path in EXAMPLES.glob("*/README.md"))
CONFIGS = sorted(EXAMPLES.glob("*/config.yaml"))
PAIRS = re.compile(r"pairs: (\d+) = (\d+) known \+ (\d+) scored")


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A copy of the folder, in which examples write their lakes."""
    ignore = shutil.ignore_patterns("lake", "out", "feed", "corpus.jsonl")
    return Path(shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=ignore))


def run(folder: Path) -> str:
    """Runs the commands of the README in the folder; what they print."""
    (block,) = blocks("sh", (folder / "README.md").read_text())
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", block],
        cwd=folder,
        env={**os.environ, "PATH": programs},
        capture_output=True,
        text=True,
        timeout=220,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ranked(folder: Path, name: str, generation: int | None = None) -> pa.Table:
    return read_results(str(folder / "lake"), name, generation=generation).to_table()


def test_the_list_names_every_example() -> None:
    listed = re.findall(r"^\| \[(\w+)\]\((.*?)\) ", (EXAMPLES / "README.md").read_text(), re.M)
    assert sorted(name for name, _ in listed) == FOLDERS
    assert all((EXAMPLES / link).is_file() for _, link in listed)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.parent.name)
def test_editors_accept_the_config(path: Path) -> None:
    text = path.read_text()
    hint = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert hint
    schema = json.loads((path.parent / hint[1]).read_text())
    loaded = load_config(str(path)).model_dump(mode="json", exclude_unset=True)
    jsonschema.Draft202012Validator(schema).validate(loaded)


@pytest.mark.models
def test_plain_folder(examples: Path) -> None:
    printed = run(examples / "plain_folder")
    first, second = re.findall(r"nDCG@5: ([\d.]+) first stage -> ([\d.]+) reranked", printed)[0]
    assert 0.8 < float(first) < float(second)
    assert "A book arrived damaged" in printed
    assert (examples / "plain_folder" / printed.splitlines()[-1]).is_file()
    assert ranked(examples / "plain_folder", "help-center").num_rows == 24 * 5


@pytest.mark.s3
@pytest.mark.usefixtures("s3_url")
def test_parquet_on_s3(examples: Path) -> None:
    printed = run(examples / "parquet_on_s3")
    assert printed.startswith("nightrank-example/inputs/corpus/account.parquet\n")
    assert printed.splitlines()[-1].startswith("s3://nightrank-example/lake/help-center/results/")
    table = read_results("s3://nightrank-example/lake", "help-center").to_table()
    assert len(table["query_id"].unique()) == 24


@pytest.mark.models
def test_python_api(examples: Path) -> None:
    printed = run(examples / "python_api")
    scored = [int(count) for count in re.findall(r"(\d+) pairs scored", printed)]
    assert scored[0] == 24 * 5 and all(0 < count < scored[0] for count in scored[1:])
    assert "best weight: 0.3" in printed and "240 rows in generation 1" in printed
    assert "did you mean 'depth'?" in printed


@pytest.mark.models
def test_vectors_only(examples: Path) -> None:
    printed = run(examples / "vectors_only")
    folder = examples / "vectors_only"
    without, hybrid = (ranked(folder, "vectors-only", number) for number in (1, 2))
    assert "first_stage_bm25_score" not in without.column_names
    assert sum(hybrid["first_stage_bm25_score"].to_pylist()) > 0
    assert "embed documents      reused" not in printed.split("published generation 1")[0]
    measures = re.findall(r"nDCG@5: ([\d.]+) first stage", printed)
    assert len(measures) == 2 and measures[0] != measures[1]


@pytest.mark.models
def test_rerank_steps(examples: Path) -> None:
    first, second = PAIRS.findall(run(examples / "rerank_steps"))
    assert first == (str(24 * 48), "0", str(24 * 48))
    assert second == (str(24 * 50), str(24 * 48), str(24 * 2))
    table = ranked(examples / "rerank_steps", "rerank-steps")
    assert {"cheap_score", "strong_score"} <= set(table.column_names)


def test_nightly_feed(examples: Path) -> None:
    printed = run(examples / "nightly_feed")
    assert "corpus: 1 added, 1 changed, 1 removed, 2 embedded" in printed
    assert "dry run: both inputs were read, nothing was written" in printed
    first, second = PAIRS.findall(printed)
    assert first[1] == "0" and 0 < int(second[2]) < int(second[1])
    documents = ranked(examples / "nightly_feed", "nightly-feed")["doc_id"].unique().to_pylist()
    assert "passkey" in documents and "merge-accounts" not in documents


@pytest.mark.models
def test_training(examples: Path) -> None:
    run(examples / "training")
    report = json.loads((examples / "training" / "out" / "report.json").read_text())
    assert report["training"]["step"] == 2
    assert ranked(examples / "training", "trained").num_rows == 24 * 10


def test_analytics(examples: Path) -> None:
    printed = run(examples / "analytics")
    for column in ("promoted", "before", "places", "margin", "queries"):
        assert column in printed
    assert len(re.findall(r"^│ billing +│", printed, re.MULTILINE)) == 3  # DuckDB's tables.
