"""Nodes, workers and drivers of a cluster are lost, stopped or poisoned; the rows stay the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nightrank.cli.verify import verify
from tests.support.cluster import TokenCluster
from tests.support.collection import Collection, write_jsonl
from tests.support.lake import digests, run, table
from tests.support.progress import records, when

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
REPOSITORY = Path(__file__).resolve().parents[2]
POISON = Path(__file__).parent / "poison"
SECTIONS: dict[str, Any] = {
    "layout": {"document_shard_rows": 40, "query_shard_rows": 4},
    "rerank": {"model": "toy:overlap", "depth": 20, "unit_tokens": 500},
}
CLUSTER: dict[str, Any] = {
    "executor": "ray",
    "pools": {"general": {"workers": 2}, "model": {"workers": 2, "gpus": 0}},
}
# Where a stage's completed units show, and the label of the nodes that do them.
STAGES = {
    "embed": ("segments/*/embed-*/_done/*.json", "model"),
    "search": ("results/*/search-*/_done/*.json", "general"),
}


class Cluster:
    """A head without CPUs, two nodes of either pool, and toy models with a flaw."""

    def __init__(self, folder: Path) -> None:
        self.deaths = folder / "deaths"
        self._ray = TokenCluster(cpus=0, label="head")
        self._ray.env |= {"DEATHS": str(self.deaths), "PYTHONPATH": str(POISON)}
        self._nodes: dict[str, list[subprocess.Popen[bytes]]] = {"general": [], "model": []}
        self.complete()

    def complete(self) -> None:
        """Two nodes of either pool, also after one was lost."""
        for label, nodes in self._nodes.items():
            while len(nodes) < 2:
                nodes.append(self._ray.add(1, label))

    def lose(self, label: str) -> None:
        self._ray.kill(self._nodes[label].pop())

    def stop(self) -> None:
        self._ray.stop()

    def start(self, config: str) -> subprocess.Popen[bytes]:
        """A driver on this cluster."""
        return driver(self._ray, config)

    def workers(self) -> list[int]:
        """Processes of actors that are doing a unit."""
        sessions = {node.pid for nodes in self._nodes.values() for node in nodes}
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                title = (folder / "cmdline").read_text()
                if title.startswith("ray::_Actor.run") and os.getsid(int(folder.name)) in sessions:
                    found.append(int(folder.name))
            except OSError:
                continue
        return found


def driver(cluster: TokenCluster, config: str) -> subprocess.Popen[bytes]:
    """`nightrank run` on a cluster."""
    return subprocess.Popen(
        [sys.executable, "-m", "nightrank", "run", config],
        cwd=REPOSITORY,
        env={**os.environ, **cluster.env, "RAY_ADDRESS": cluster.gcs},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def undisturbed(
    collection: Collection, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "c.yaml").write_text(json.dumps(collection.config(folder / "lake", **SECTIONS)))
    run(str(folder / "c.yaml"))
    return digests(folder / "lake")


def events(lake: Path) -> Counter[str]:
    """What the last run told of, by kind."""
    told = sorted(lake.glob("tiny/results/*/events-*.jsonl"))[-1].read_text()
    return Counter(json.loads(line)["event"] for line in told.splitlines())


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_lost_node_costs_its_units_in_flight_only(
    cluster: Cluster,
    collection: Collection,
    tmp_path: Path,
    write_config: Callable[..., str],
    undisturbed: dict[str, list[str]],
    stage: str,
) -> None:
    cluster.complete()
    lake = tmp_path / "lake"
    pattern, label = STAGES[stage]
    config = write_config(collection.config(lake, cluster=CLUSTER, **SECTIONS))
    process = cluster.start(config)
    when(lambda: len(list(lake.glob(f"tiny/{pattern}"))) >= 3, process, 90)
    before = records(lake)
    cluster.lose(label)
    finish(process)
    assert digests(lake) == undisturbed
    assert before.items() <= records(lake).items()
    told = events(lake)
    assert told["node_lost"] >= 1 and not told["worker_lost"], "it was held against its units"
    verify(config)


def test_killed_and_stopped_workers_change_nothing(
    cluster: Cluster,
    collection: Collection,
    tmp_path: Path,
    write_config: Callable[..., str],
    undisturbed: dict[str, list[str]],
) -> None:
    """Five are killed, one is stopped and stands still until its deadline."""
    cluster.complete()
    lake = tmp_path / "lake"
    patient = {**CLUSTER, "attempts": 8, "deadline_seconds": 10.0}
    config = write_config(collection.config(lake, cluster=patient, **SECTIONS))
    process = cluster.start(config)
    rng, step = random.Random(5), 12
    for number, sent in enumerate([signal.SIGKILL] * 3 + [signal.SIGSTOP] + [signal.SIGKILL] * 2):
        when(lambda n=number: len(records(lake)) >= (n + 1) * step, process, 90)  # type: ignore[misc]
        busy: list[int] = []
        when(lambda found=busy: bool(found.extend(cluster.workers()) or found), process, 90)  # type: ignore[misc]
        os.kill(rng.choice(busy), sent)
    finish(process)
    assert digests(lake) == undisturbed
    assert events(lake)["worker_lost"] >= 4
    verify(config)


def test_a_lost_head_ends_the_run_and_the_next_one_goes_on(
    collection: Collection,
    tmp_path: Path,
    write_config: Callable[..., str],
    undisturbed: dict[str, list[str]],
) -> None:
    """Ray ends the driver then, by `_Exit`; the user is told, and the exit code says to go on."""
    lake = tmp_path / "lake"
    config = write_config(collection.config(lake, cluster=CLUSTER, **SECTIONS))
    ray = TokenCluster(cpus=8)
    try:
        process = driver(ray, config)
        when(lambda: len(records(lake)) >= 20, process, 90)
    finally:
        ray.stop()
    _, errors = process.communicate(timeout=120)
    last = errors.decode().strip().splitlines()[-1]
    assert process.returncode == 9 and "error[E_CLUSTER]" in last and ray.gcs in last
    assert "Traceback" not in errors.decode()
    before = records(lake)
    run(config, "cluster.executor=serial")
    assert digests(lake) == undisturbed
    assert before.items() <= records(lake).items()


def test_drivers_killed_at_random_resume(
    cluster: Cluster,
    collection: Collection,
    tmp_path: Path,
    write_config: Callable[..., str],
    undisturbed: dict[str, list[str]],
) -> None:
    cluster.complete()
    lake = tmp_path / "lake"
    config = write_config(collection.config(lake, cluster=CLUSTER, **SECTIONS))
    rng = random.Random(11)
    before: dict[str, bytes] = {}
    for _ in range(3):
        process = cluster.start(config)
        wanted = len(before) + rng.randint(1, 25)
        when(lambda n=wanted: len(records(lake)) >= n, process, 90)  # type: ignore[misc]
        process.kill()
        process.wait()
        assert before.items() <= records(lake).items(), "a committed unit was done again"
        before = records(lake)
    finish(cluster.start(config))
    assert digests(lake) == undisturbed
    assert before.items() <= records(lake).items()
    verify(config)


def test_rows_that_kill_their_worker_are_rejected_and_all_others_ranked(
    cluster: Cluster, collection: Collection, tmp_path: Path, write_config: Callable[..., str]
) -> None:
    cluster.complete()
    documents = [dict(document) for document in collection.documents]
    documents[17]["text"] += " poisonvector"
    documents[230]["text"] += " poisonpair"
    vector, pair = documents[17]["_id"], documents[230]["_id"]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", documents)
    # A rare word makes the document the first candidate of whoever asks with it.
    asked = [*collection.queries[:20], {"_id": "asks", "text": "river poisonpair"}]
    sections = {
        **SECTIONS,
        "corpus": {"path": str(corpus), "reject_budget": 0.01},
        "queries": {"path": str(write_jsonl(tmp_path / "queries.jsonl", asked))},
        "results": {"keep": 20},
        "evaluate": {"qrels": None},
    }
    poisoned = collection.config(tmp_path / "poisoned", cluster=CLUSTER, **sections)
    config = write_config(poisoned, "poisoned.yaml")
    finish(cluster.start(config))
    verify(config)
    rejects = table(tmp_path / "poisoned", "rejects").to_pylist()
    found = Counter((row["kind"], row["id"], row["reason"]) for row in rejects)
    pairs = found.pop(("pair", pair, "crashed_worker"), 0)
    assert pairs >= 1 and found == {("corpus", vector, "crashed_worker"): 1}
    deaths = Counter(cluster.deaths.read_text().split())
    # Three attempts and log2 of a unit's documents, of which there are 40.
    assert max(deaths.values()) <= 3 + 6 + 1 and len(deaths) == 2

    write_jsonl(corpus, [document for document in documents if document["_id"] != vector])
    whole = collection.config(tmp_path / "whole", **sections)
    run(write_config(whole, "whole.yaml"))
    columns = ["query_id", "doc_id", "score"]
    assert events(tmp_path / "poisoned")["unit_set_aside"] == 2
    whole_rows = table(tmp_path / "whole").select(columns).to_pylist()
    expected = [row for row in whole_rows if row["doc_id"] != pair]
    assert table(tmp_path / "poisoned").select(columns).to_pylist() == expected
