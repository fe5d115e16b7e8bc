"""Every key of a config either changes the plan, or only how it is run.

A new key fails here until it is in one of the two lists.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from nightrank.config.file import load_config
from nightrank.config.schema import PipelineConfig
from nightrank.generations.planning import make_plan
from nightrank.generations.results import open_lake
from tests.support.collection import Collection
from tests.support.config_keys import keys

# Another value than that of `plain`. A path counts by the files at it: see the tests below.
SEMANTIC: dict[str, Any] = {
    "corpus.format": "jsonl",
    "corpus.columns": {"text": "title"},
    "corpus.attributes": {"year": "string"},
    "corpus.header": ["id", "text"],
    "corpus.on_bad_row": "error",
    "corpus.on_bad_file": "reject",
    "corpus.max_text_bytes": 1000,
    "corpus.duplicates": "strict",
    "corpus.empty_text": "keep",
    "corpus.feed": True,
    "queries.format": "jsonl",
    "queries.columns": {"text": "vertical"},
    "queries.attributes": {"vertical2": "string"},
    "queries.header": ["id", "text"],
    "queries.on_bad_row": "error",
    "queries.on_bad_file": "reject",
    "queries.max_text_bytes": 1000,
    "queries.only_judged": True,
    "queries.on_dup_query": "reject",
    "encoder.max_length_tokens": 64,
    "encoder.dimension": 32,
    "index.factory": "IVF2,Flat",
    "index.search_parameters": "nprobe=1",
    "index.train_rows": 100,
    "index.recall_target": 0.9,
    "index.flat_rows": 10,
    "index.shard_bytes": 1000,
    "retrieve.depth": 30,
    "retrieve.bm25.weight": 0.5,
    "retrieve.bm25.k1": 1.2,
    "retrieve.bm25.b": 0.7,
    "retrieve.bm25.language": "none",
    "rerank.*.name": "second",
    "rerank.*.max_length_tokens": 64,
    "rerank.*.depth": 5,
    "rerank.*.first_stage_weight": 0.5,
    "rerank.*.unit_tokens": 1000,
    "results.keep": 3,
    "results.document_columns": ["title"],
    "layout.document_shard_rows": 10,
    "layout.query_shard_rows": 10,
    "encoder.model": "builtin:minilm",
    "encoder.revision": "0" * 40,
    "encoder.precision": "auto",
    "encoder.query_prompt": "query: ",
    "encoder.document_prompt": "passage: ",
    "rerank.*.model": "builtin:reranker",
    "rerank.*.revision": "0" * 40,
    "rerank.*.precision": "exact",
}
OPERATIONAL: dict[str, Any] = {
    "name": "other",
    "root": "elsewhere",
    "storage_options": {"anon": False},
    "corpus.ignore": ["*.bz2"],
    "corpus.reject_budget": 0.5,
    "corpus.allow_empty": True,
    "corpus.partitions": ["*.jsonl"],
    "queries.ignore": ["*.bz2"],
    "queries.reject_budget": 0.5,
    "queries.allow_empty": True,
    "evaluate.qrels": None,
    "evaluate.measures": ["R@3"],
    "search.memory_bytes": 1 << 20,
    "nightly.audit_nights": 3,
    "nightly.store_files": 3,
    "nightly.max_segments": 3,
    "nightly.max_dead_fraction": 0.5,
    "nightly.retrain_fraction": 0.1,
    "nightly.recall_floor": 0.5,
    "nightly.max_imbalance": 2.0,
    "budget.until": "05:30",
    "budget.gpu_hours": 2.0,
    "budget.usd": 2.0,
    "budget.usd_per_hour": 2.0,
    "budget.rerank_first": [3],
    "budget.on_budget": "publish_depth",
    "gate.max_delete_fraction": 0.5,
    "gate.max_withdrawn_queries": 0.5,
    "gate.max_lost_queries": 0.5,
    "gate.min_overlap": 0.1,
    "gate.max_measure_drop": 0.5,
    "gate.max_reject_rate": 0.5,
    "gate.max_differing_lists": 5,
    "cluster.executor": "serial",
    "cluster.address": "head:6379",
    "cluster.pools.*.stages": ["ingest"],
    "cluster.pools.*.workers": 7,
    "cluster.pools.*.min_workers": 1,
    "cluster.pools.*.cpus": 2.0,
    "cluster.pools.*.gpus": 0.0,
    "cluster.pools.*.memory_bytes": 1 << 30,
    "cluster.pools.*.threads": 3,
    "cluster.pools.*.labels": {"zone": "a"},
    "cluster.threads_per_worker": 3,
    "cluster.attempts": 2,
    "cluster.deadline_seconds": 60.0,
}
# Counted by the files: another file of the same bytes is another input, since rejects name it.
PATHS = ("corpus.path", "queries.path")
# Toy models refuse these: their part of the identity is compared without a plan.
REFUSED_BY_TOYS = ("encoder.query_prompt", "encoder.document_prompt")


def changed(plain: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A config with another value; `*` is the first item of a list, a new name of a mapping."""
    copy: Any = json.loads(json.dumps(plain))
    place = copy
    *parents, last = key.split(".")
    for part in parents:
        name = "general" if part == "*" else part
        place = place[0] if isinstance(place, list) else place.setdefault(name, {})
    place[last] = value
    if key == "budget.usd":
        copy["budget"]["usd_per_hour"] = 1.0
    return copy


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("identity")
    small = Collection(folder / "in", documents=20, queries=4)
    base = small.config(folder / "lake", corpus={"attributes": {"year": "int64"}})
    base["rerank"] = [{**base["rerank"], "depth": 10}]
    base["cluster"] = {}
    return base


def plan_id(plain: dict[str, Any], folder: Path) -> str:
    (folder / "config.yaml").write_text(json.dumps({**plain, "root": str(folder / plain["root"])}))
    config = load_config(str(folder / "config.yaml"))
    return make_plan(config, open_lake(config.root, config.name)).plan_id


def test_every_key_is_classified() -> None:
    known = {key for key, _ in keys()}
    assert not SEMANTIC.keys() & OPERATIONAL.keys()
    assert SEMANTIC.keys() | OPERATIONAL.keys() | set(PATHS) == known


def test_the_reference_says_which_keys_change_the_plan() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "configuration.md").read_text()
    entries = re.findall(r"^### `(.*?)`$.*?the plan:\* (\w+)", text, re.MULTILINE | re.DOTALL)
    documented = {key.replace("pools.<name>", "pools.*"): answer for key, answer in entries}
    for keys_of, answer in ((SEMANTIC, "yes"), (OPERATIONAL, "no")):
        for key in keys_of:
            name = key.removeprefix("rerank.*.")
            name = name if name == key else f"rerank.{name}"
            shared = name.replace("queries.", "corpus.")
            expected = "through" if key == "evaluate.qrels" else answer
            assert documented.get(name, documented.get(shared)) == expected, key


@pytest.mark.parametrize("key", SEMANTIC)
def test_what_can_change_a_result_changes_the_plan(
    plain: dict[str, Any], tmp_path: Path, key: str
) -> None:
    other = changed(plain, key, SEMANTIC[key])
    if key in REFUSED_BY_TOYS:
        a, b = (PipelineConfig.model_validate(one).semantic() for one in (plain, other))
        assert a != b
        return
    assert plan_id(plain, tmp_path) != plan_id(other, tmp_path)


@pytest.mark.parametrize("key", OPERATIONAL)
def test_how_a_plan_is_run_leaves_it(plain: dict[str, Any], tmp_path: Path, key: str) -> None:
    other = changed(plain, key, OPERATIONAL[key])
    assert other != plain
    assert plan_id(plain, tmp_path) == plan_id(other, tmp_path)


@pytest.mark.parametrize("kind", ["corpus", "queries"])
def test_another_input_is_another_plan(plain: dict[str, Any], tmp_path: Path, kind: str) -> None:
    before = plan_id(plain, tmp_path)
    path = Path(plain[kind]["path"])
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(path.read_bytes())
    assert plan_id(changed(plain, f"{kind}.path", str(moved)), tmp_path) != before
    moved.write_bytes(path.read_bytes().replace(b"river", b"ocean"))
    here = changed(plain, f"{kind}.path", str(moved))
    first = plan_id(here, tmp_path)
    moved.write_bytes(path.read_bytes())
    assert plan_id(here, tmp_path) != first


@pytest.mark.parametrize(
    ("cluster", "asked", "planned"),
    [
        ({"executor": "ray", "pools": {"model": {"gpus": 1}}}, "auto", "bf16"),
        ({"executor": "ray", "pools": {"model": {"gpus": 0.5}}}, "bf16", "bf16"),
        ({"executor": "ray", "pools": {"model": {"gpus": 1}}}, "exact", "fp32"),
        ({"executor": "ray", "pools": {"own": {"stages": ["rerank"], "gpus": 1}}}, "bf16", "bf16"),
        ({"executor": "serial", "pools": {"model": {"gpus": 1}}}, "exact", "fp32"),
    ],
)
def test_precision_is_that_of_the_workers_gpus_whatever_the_planning_machine_has(
    collection: Collection, tmp_path: Path, cluster: dict[str, Any], asked: str, planned: str
) -> None:
    rerank = {"model": "builtin:reranker", "precision": asked, "depth": 5}
    plain = collection.config(tmp_path / "lake", rerank=rerank, cluster=cluster)
    config = PipelineConfig.model_validate(plain)
    plan = make_plan(config, open_lake(config.root, config.name))
    assert plan.steps[0].precision == planned and plan.encoder.precision == "fp32"
