"""Pools: which stage runs where, with how much of a node, and what is left when it is done."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

import nightrank.stages
from nightrank.config.running import Cluster, IndexStage, ModelStage, OtherStage, Pool
from nightrank.errors import NightrankError
from nightrank.generations.stage_order import declarations
from nightrank.runtime import ray_executor, ray_pools
from nightrank.runtime.executor import run_stage
from nightrank.runtime.progress import Progress
from nightrank.runtime.ray_cluster import POOL_LABEL
from nightrank.runtime.ray_executor import RayExecutor
from nightrank.runtime.ray_pools import Pools
from nightrank.runtime.stage import Stage
from nightrank.storage.reader import Reader
from nightrank.storage.store import Store
from tests.support.pools import stage

pytestmark = pytest.mark.ray


@pytest.fixture
def executors(ray_cluster: None) -> Iterator[list[RayExecutor]]:
    made: list[RayExecutor] = []
    yield made
    for executor in made:
        executor.close()


def run(executor: RayExecutor, made: Stage, folder: Path) -> list[dict[str, Any]]:
    store = Store(str(folder / "lake"))
    manifest = run_stage(made, store, executor, Progress(quiet=True))
    return [Reader(store).table(ref).to_pylist()[0] for ref in manifest.files("rows")]


def test_the_stages_that_a_config_may_name_are_those_there_are() -> None:
    of_pool = {"index": IndexStage, "model": ModelStage, "general": OtherStage}
    for pool, literal in of_pool.items():
        declared = [stage.name for stage in declarations() if stage.pool == pool]
        assert sorted(get_args(literal)) == sorted(declared)
    files = {module.name for module in pkgutil.iter_modules(nightrank.stages.__path__)}
    assert files == {stage.name for stage in declarations()}


def test_a_worker_has_what_its_pool_says(executors: list[RayExecutor], tmp_path: Path) -> None:
    wide = Pool(workers=1, cpus=2.0, memory_bytes=64 << 20, threads=3)
    executors.append(RayExecutor(Cluster(pools={"model": wide, "general": Pool(workers=2)})))
    rows = run(executors[0], stage("models", "model"), tmp_path)
    assert len({row["process"] for row in rows}) == 1
    assert {row["threads"] for row in rows} == {3}
    assert {row["held"] for row in rows} == {str([("CPU", 2.0), ("memory", float(64 << 20))])}
    others = run(executors[0], stage("others"), tmp_path)
    assert 1 <= len({row["process"] for row in others}) <= 2
    assert {row["held"] for row in others} == {str([("CPU", 1.0)])}


def test_processes_stay_for_the_next_stage_unless_their_pool_lets_them_go(
    executors: list[RayExecutor], tmp_path: Path
) -> None:
    leaving = Pool(workers=2, min_workers=0)
    cluster = Cluster(pools={"general": Pool(workers=1), "model": leaving})
    executors.append(RayExecutor(cluster))
    pids = [
        {row["process"] for row in run(executors[0], stage(name, pool), tmp_path)}
        for name, pool in (("a", "general"), ("b", "model"), ("c", "general"), ("d", "model"))
    ]
    assert pids[0] == pids[2] and not pids[1] & pids[3]
    assert executors[0]._pools.sizes == {"general": 1, "index": 0, "model": 0}


def test_stages_run_where_the_config_puts_them(ray_cluster: None) -> None:

    reranking = replace(stage("rerank", "model"), kind="rerank")
    searching = replace(stage("search", "index"), kind="search")
    usual, moved = Pools(Cluster()), Pools(Cluster(pools={"wide": Pool(stages=["rerank"])}))
    # Without a GPU, FAISS needs no processes of its own.
    assert [usual.name_of(made) for made in (reranking, searching)] == ["model", "general"]
    assert [moved.name_of(made) for made in (reranking, searching)] == ["wide", "general"]
    assert Pools(Cluster(pools={"index": Pool(workers=1)})).name_of(searching) == "index"


def test_a_pool_of_its_own_name_goes_where_nodes_are_labelled_for_its_stages(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"wide": Pool(stages=["rerank"]), "merging": Pool(stages=["merge"])}
    for there, expected in (
        (set(), [{}, {}, {}]),
        ({"head", "merging"}, ["model", "merging", "model"]),
        ({"head"}, ["model", "general", "model"]),
    ):
        monkeypatch.setattr(ray_pools, "labelled_pools", lambda there=there: there)
        made = Pools(Cluster(pools=own))
        labels = [made.shape(name).labels for name in ("wide", "merging", "model")]
        assert labels == [{POOL_LABEL: n} if isinstance(n, str) else n for n in expected]


def test_a_pool_whose_nodes_never_come_says_which_they_are(
    executors: list[RayExecutor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_executor, "START_SECONDS", 2.0)
    pools = {"general": Pool(workers=1, labels={"zone": "nowhere"})}
    executors.append(RayExecutor(Cluster(pools=pools, deadline_seconds=2.0)))
    with pytest.raises(NightrankError, match="nodes labelled zone=nowhere") as caught:
        run(executors[0], stage("lost"), tmp_path)
    assert caught.value.exit_code == 9


@pytest.mark.parametrize(
    ("pools", "says"),
    [
        ({"wide": {}}, "pools.wide needs stages"),
        ({"a": {"stages": ["rerank"]}, "b": {"stages": ["rerank"]}}, "rerank is in both a and b"),
        ({"a": {"stages": ["search", "embed"]}}, "never share a process"),
        ({"model": {"stages": ["search"]}}, "FAISS and torch never share"),
        ({"a": {"stages": ["reranking"]}}, "Input should be"),
        ({"general": {"stages": ["rerank"]}}, "needs a pool index"),
        ({"general": {"workers": 1, "min_workers": 2}}, "more than workers"),
    ],
)
def test_pools_that_make_no_sense_are_refused(pools: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Cluster.model_validate({"pools": pools})
