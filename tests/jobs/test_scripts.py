"""The scripts of `jobs/`: one for each verb that a cluster runs, the same as `nightrank VERB`."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nightrank.__main__
from nightrank.cli.submit import Verb
from nightrank.generations.results import read_results
from tests.support.cluster import ON_RAY, TokenCluster
from tests.support.collection import Collection

JOBS = Path(__file__).resolve().parents[2] / "jobs"
SCRIPTS = sorted(JOBS.glob("*.py"))


def test_every_verb_that_can_be_submitted_has_a_script() -> None:
    verbs = {script.stem.replace("_", "-") for script in SCRIPTS}
    # Training takes a config of its own, which `submit` does not read.
    assert verbs == {*Verb} | {"train-reranker"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_is_the_verb_of_its_name(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(nightrank.__main__, "main", lambda: calls.append(sys.argv[1:]))
    monkeypatch.setattr(sys, "argv", [str(script), "my.yaml", "--json"])
    runpy.run_path(str(script), run_name="__main__")
    assert calls == [[script.stem.replace("_", "-"), "my.yaml", "--json"]]
    assert f"-- python jobs/{script.name} CONFIG" in script.read_text()


@pytest.mark.ray
def test_ray_runs_a_script_of_the_working_directory(
    token_cluster: TokenCluster, tmp_path: Path
) -> None:
    """As the scripts' own text says, from a folder that holds `jobs/` and a config."""
    collection = Collection(tmp_path / "in", documents=40, queries=4)
    folder = tmp_path / "checkout"
    shutil.copytree(JOBS, folder / "jobs")
    plain = collection.config(tmp_path / "lake", cluster=ON_RAY)
    (folder / "my.yaml").write_text(json.dumps(plain))  # JSON is YAML.
    submitted = subprocess.run(
        ["ray", "job", "submit", "--address", token_cluster.address, "--working-dir", "."]
        + ["--", "python", "jobs/nightly.py", "my.yaml"],
        cwd=folder,
        env={**os.environ, **token_cluster.env},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert "published generation 1" in submitted.stdout
    assert read_results(str(tmp_path / "lake"), "tiny").to_table().num_rows == 4 * 5
