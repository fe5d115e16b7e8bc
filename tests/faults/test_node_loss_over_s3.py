"""The quickstart's config on a cluster, its lake on S3: a node is lost, the result is the same.

The head has no CPUs, nodes are labelled by pool, those of models have GPUs as far as Ray knows. At
first only one of them is there; the second comes once the first was taken away, as an autoscaler or
a spot market would have it.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nightrank.cli.quickstart import copy_sample
from nightrank.generations.results import open_lake
from tests.support.cluster import TokenCluster
from tests.support.lake import digests
from tests.support.program import nightrank

pytestmark = [
    pytest.mark.models,
    pytest.mark.ray,
    pytest.mark.s3,
    pytest.mark.timeout(300),
]
DOCUMENTS, QUERIES = 80, 5


@pytest.fixture
def smaller(tmp_path: Path) -> dict[str, Any]:
    """What a part of the quickstart's input takes to be set."""
    sample = copy_sample(tmp_path / "quickstart").parent
    questions = (sample / "queries.jsonl").read_text().splitlines()[:QUERIES]
    asked = {json.loads(line)["_id"] for line in questions}
    header, *judged = (sample / "qrels.tsv").read_text().splitlines()
    judged = [line for line in judged if line.split("\t")[0] in asked]
    wanted = {line.split("\t")[1] for line in judged if not line.endswith("\t0")}
    documents = gzip.decompress((sample / "corpus.jsonl.gz").read_bytes()).decode().splitlines()
    first = [line for line in documents if json.loads(line)["_id"] in wanted]
    paths = {}
    for name, lines in (
        ("corpus.path", [*first, *documents][:DOCUMENTS]),
        ("queries.path", questions),
        ("evaluate.qrels", [header, *judged]),
    ):
        paths[name] = tmp_path / f"{name}{'.tsv' if 'qrels' in name else '.jsonl'}"
        paths[name].write_text("\n".join(lines) + "\n")
    return {
        **paths,
        "retrieve.depth": 12,
        "rerank.depth": 12,
        "rerank.unit_tokens": 300,
        # Planned for GPUs, and there are none behind these names.
        "encoder.precision": "exact",
        "rerank.precision": "exact",
        "cluster.threads_per_worker": 1,
    }


def sets(**values: Any) -> list[str]:
    return [part for name, value in values.items() for part in ("--set", f"{name}={value}")]


def test_a_node_that_is_lost_in_rerank_costs_its_units_and_changes_nothing(
    smaller: dict[str, Any], s3_url: str, tmp_path: Path
) -> None:
    config = str(tmp_path / "quickstart" / "quickstart.yaml")
    here = sets(**smaller, root=tmp_path / "here")
    undisturbed = nightrank("run", config, *here, "--set", "cluster.executor=serial")
    assert undisturbed.returncode == 0, undisturbed.stderr
    root = f"{s3_url}/cluster"
    pools = "{general: {workers: 1}, model: {workers: 2, gpus: 1}}"
    there = sets(**smaller, root=root, **{"cluster.pools": pools})

    # Started here, S3's address in its environment.
    standing = TokenCluster(cpus=0, label="head")
    try:
        standing.add(1, "general")
        doomed = standing.add(1, "model", gpus=1)
        job = subprocess.Popen(
            [sys.executable, "-m", "nightrank", "submit", config, *there, "--", "--json"],
            env={**os.environ, **standing.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        store = open_lake(root, "quickstart")
        done = _wait_for_units(store, job)
        standing.kill(doomed)
        standing.add(1, "model", gpus=1)
        told, errors = job.communicate(timeout=120)
        assert job.returncode == 0, told + errors
    finally:
        standing.stop()
    summary = json.loads(told.strip().splitlines()[-1])
    assert 0 < len(done) < summary["units"]["rerank"], "nothing was left to lose"
    assert done.items() <= _records(store).items(), "a committed unit was done again"
    assert digests(root, "quickstart") == digests(tmp_path / "here", "quickstart")


def _records(store: Any) -> dict[str, bytes]:
    """The records of rerank, by name."""
    runs = [f"results/{run}" for run in store.folders("results")]
    datasets = [f"{run}/{name}" for run in runs for name in store.folders(run)]
    folders = [f"{path}/_done" for path in datasets if "/rerank-" in path]
    return {name: store.read(f"{f}/{name}") for f in folders for name in store.files(f)}


def _wait_for_units(store: Any, job: subprocess.Popen[str]) -> dict[str, bytes]:
    """The records of rerank as soon as there are two."""
    until = time.monotonic() + 120
    while time.monotonic() < until and job.poll() is None:
        if len(found := _records(store)) >= 2:
            return found
        time.sleep(0.05)
    raise AssertionError(f"rerank never began: {job.communicate()}")
