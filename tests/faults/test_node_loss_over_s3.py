"""A head without CPUs, nodes by pool, a lake on S3: a node is lost and the result is the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.results import open_lake
from tests.conftest import Collection
from tests.jobs.lake import digests, run
from tests.standing_cluster import StandingCluster

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.timeout(240)]


def test_a_node_that_is_lost_in_rerank_costs_its_units_and_changes_nothing(
    collection: Collection, s3_url: str, tmp_path: Path, write_config: Callable[..., str]
) -> None:
    sections = {"rerank": {"model": "toy:overlap", "depth": 20, "unit_tokens": 500}}
    sections["layout"] = {"document_shard_rows": 300}
    undisturbed = collection.config(tmp_path / "here", **sections)
    run(write_config(undisturbed, "here.yaml"))
    pools = {"general": {"workers": 1}, "model": {"workers": 2, "gpus": 0}}
    cluster = {"executor": "ray", "pools": pools}
    root = f"{s3_url}/cluster"
    config = write_config(collection.config(root, cluster=cluster, **sections), "there.yaml")

    # Started here, S3's address in its environment.
    standing = StandingCluster(cpus=0, label="head")
    try:
        standing.add(1, "general")
        doomed = standing.add(1, "model")
        standing.add(1, "model")
        job = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", "submit", config, "--", "--json"],
            env={**os.environ, **standing.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        done = _wait_for_units(open_lake(root, "tiny"), job)
        standing.kill(doomed)
        told, errors = job.communicate(timeout=120)
        assert job.returncode == 0, told + errors
    finally:
        standing.stop()
    summary = json.loads(told.strip().splitlines()[-1])
    assert 0 < done < summary["units"]["rerank"]
    assert digests(root) == digests(tmp_path / "here")


def _wait_for_units(store: object, job: subprocess.Popen[str]) -> int:
    """How many units of rerank are committed, as soon as some are."""
    until = time.monotonic() + 90
    while time.monotonic() < until and job.poll() is None:
        for folder in store.folders("results"):  # type: ignore[attr-defined]
            names = store.files(f"results/{folder}/scores-0/_done")  # type: ignore[attr-defined]
            if len(names) >= 3:
                return len(names)
        time.sleep(0.1)
    raise AssertionError(f"rerank never began: {job.communicate()}")
