"""The installed wheel on each interpreter, without torch, transformers or OpenVINO.

Toy models, planning, runs, exports and analytics work there: they import none of these.
"""

from __future__ import annotations

import json
import re
import tomllib

import pytest

from tests.support.environments import MODEL_LIBRARIES, REPOSITORY, Environment

pytestmark = pytest.mark.ray
READ = """
import duckdb, nightrank
ranked = nightrank.read_results("lake", "tiny")
assert nightrank.__file__.startswith({prefix!r}), nightrank.__file__
table = duckdb.arrow(ranked.to_table())
print(table.aggregate("count(*), count(DISTINCT query_id), min(rank)").fetchall())
"""


@pytest.fixture(scope="module")
def published(environment: Environment) -> Environment:
    """An environment whose config has run on Ray and is published as generation 1."""
    closing = environment.succeed("nightrank", "run", "config.yaml", "--json").splitlines()[-1]
    assert json.loads(closing)["generation"] == 1
    return environment


def test_the_command_starts(environment: Environment) -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert environment.succeed("nightrank", "--version") == f"nightrank {version}\n"
    assert "nightly" in environment.succeed("nightrank", "--help")


def test_doctor_reports_the_model_libraries_alone(environment: Environment) -> None:
    completed = environment.run("nightrank", "doctor", "config.yaml", "--json")
    *findings, _ = map(json.loads, completed.stdout.splitlines())
    failures = [f for f in findings if f["state"] == "fail"]
    assert {f["found"] for f in failures} == {f"{name} is missing" for name in MODEL_LIBRARIES}
    python = next(f for f in findings if f["check"] == "python")
    assert python["state"] == "ok" and f"Python {environment.version}." in python["found"]
    assert completed.returncode == 3


def test_plan_forecasts_a_run(environment: Environment) -> None:
    forecast = environment.succeed("nightrank", "plan", "config.yaml")
    assert "forecast of tiny" in forecast and "rerank" in forecast


def test_exports_hold_the_published_rows(published: Environment) -> None:
    published.succeed("nightrank", "export", "config.yaml", "--trec", "run.trec")
    lines = (published.folder / "run.trec").read_text().splitlines()
    assert len(lines) == 6 * 5 and all(len(line.split()) == 6 for line in lines)
    published.succeed("nightrank", "export", "config.yaml", "--hive", "hive")
    assert list((published.folder / "hive" / "ranked").glob("run_date=*/part-*.parquet"))


def test_duckdb_reads_the_published_rows(published: Environment) -> None:
    program = READ.format(prefix=str(published.venv))
    assert published.succeed("python", "-c", program) == "[(30, 6, 1)]\n"


def test_the_quickstart_runs_and_its_report_is_rendered(environment: Environment) -> None:
    toys = ("encoder.model=toy:bag-of-words", "rerank.model=toy:overlap")
    small = ("cluster.executor=serial", "retrieve.depth=20", "rerank.depth=10")
    sets = [part for value in (*toys, *small) for part in ("--set", value)]
    printed = environment.succeed("nightrank", "quickstart", *sets)
    before, after = re.findall(r"nDCG@10: (\S+) first stage -> (\S+) reranked", printed)[0]
    assert 0 < float(before) < 1 and 0 < float(after) < 1
    assert "next: nightrank results quickstart/quickstart.yaml --duckdb" in printed
    reports = list((environment.folder / "quickstart" / "lake").rglob("*.report-*.html"))
    assert len(reports) == 1 and "Into and out of the top 10" in reports[0].read_text()
