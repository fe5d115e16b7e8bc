"""What is announced of the next run beside what it then does, and that asking changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from nightrank.cli.plan import plan as plan_verb
from nightrank.config.file import load_config
from nightrank.errors import NightrankError
from nightrank.forecast.bottleneck import bottleneck
from nightrank.forecast.next_run import counted, next_run
from nightrank.forecast.obstacles import obstacles
from nightrank.forecast.recomputation import (
    CORPUS,
    INDEX,
    LISTS,
    NEW,
    PAIRS,
    READERS,
    VECTORS,
    recomputed,
    reusable,
)
from nightrank.generations import stored_forecast
from nightrank.generations.planning import make_plan
from nightrank.generations.results import open_lake
from tests.support.cluster import ON_RAY
from tests.support.collection import Collection, write_jsonl
from tests.support.lake import execute, opened, run
from tests.support.program import called, night
from tests.support.versions import raise_version

Config = Callable[..., str]
# What a run from nothing takes, as `predict` gives it, in the parts that are scaled.
STAGE = {"units": 4, "seconds": 8.0, "core_seconds": 8.0, "gpu_seconds": 0.0, "gpu_hours": 0.0}
NAMES = """start ingest_corpus delta_corpus ingest_queries delta_queries extract segment
tokenize_documents terms_of_documents embed_documents train_index build_index distinct
tokenize_queries terms_of_queries embed_queries search merge rerank rank changes rejects"""
FULL: dict[str, Any] = {
    "stages": {name.replace("_", " "): {**STAGE, "bytes": 100} for name in NAMES.split()},
    "seconds": 176.0,
    "bytes": 2200,
    "cpu_hours": 1.0,
    "gpu_hours": 0.0,
    "requests": {"put": 100, "get": 100},
    "warnings": [],
}


@pytest.fixture
def made(tmp_path: Path) -> Collection:
    return Collection(tmp_path / "in", documents=300, queries=24)


def announced(config: str, *sets: str) -> dict[str, Any]:
    """`next_run` of the forecast, from a made-up full one: what is measured is not tested here."""
    loaded = load_config(config, list(sets))
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    plan = make_plan(loaded, store, keeps=False)
    return next_run(FULL, plan, store, *counted(plan, store))


def files(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of a lake: when it was written, and what it holds."""
    found = (path for path in root.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def check(said: dict[str, Any], came: dict[str, Any]) -> None:
    """Counts of a forecast are those of the run."""
    documents, pairs = said["next_run"]["documents"], said["next_run"]["pairs"]
    for name in ("added", "changed", "removed"):
        assert documents[name] == came[f"documents_{name}"], name
    assert documents["rows"] == came["documents_in"]
    assert said["next_run"]["queries"]["rows"] == came["queries_in"]
    assert pairs["needed"] == came["pairs_needed"] == pairs["known"] + pairs["to_score"]
    if pairs["exact"]:
        assert pairs["to_score"] == came["pairs_scored"]


def test_a_dry_run_forecasts_the_incremental_run_and_writes_nothing(
    made: Collection, tmp_path: Path, write_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "lake"
    config = write_config(made.config(root, gate={"max_measure_drop": 1}))
    prices = ("--gpu-hour", "2.5", "--cpu-hour", "0.05", "--json")
    said = json.loads(called(capsys, "nightly", config, "--dry-run", *prices))
    assert not root.exists()
    assert said["dry_run"] and said["next_run"]["pairs"]["exact"] and said["seconds"] > 0
    assert said["usd"]["total"] == pytest.approx(0.05 * said["cpu_hours"], abs=1e-3)
    assert said["bottleneck"]["setting"] == "cluster.executor"
    check(said, night(capsys, config))

    before = files(root)
    made.documents[0] = {**made.documents[0], "text": made.documents[1]["text"]}
    write_jsonl(made.folder / "corpus.jsonl", [*made.documents[:-6], {"_id": "n", "text": "new"}])
    write_jsonl(made.folder / "queries.jsonl", made.queries[1:])
    told = called(capsys, "nightly", config, "--dry-run")
    assert files(root) == before
    assert "1 added, 1 changed, 6 removed" in told and "nothing was written" in told
    assert "0 added, 0 changed, 1 removed; 0 of 23 texts are new" in told
    assert "an estimate" in told and "bottleneck " in told
    said = announced(config)
    came = night(capsys, config)
    check(said, came)
    assert 0 < said["next_run"]["pairs"]["to_score"] < came["pairs_needed"] / 4
    assert announced(config)["seconds"] == 0
    assert "nothing to do" in called(capsys, "nightly", config, "--dry-run")
    called(capsys, "rollback", config, "--to", "1", "--reason", "looked wrong")
    told = called(capsys, "nightly", config, "--dry-run")
    assert "warning: the run would end at once: error[E_GATE]" in told and "looked wrong" in told


def test_new_queries_alone_are_counted_to_the_pair(
    made: Collection, tmp_path: Path, write_config: Config
) -> None:
    config = write_config(made.config(tmp_path / "lake"))
    run(config)
    asked = [*made.queries[2:], {"_id": "a", "text": "river loan"}, {"_id": "b", "text": "flood"}]
    asked[0] = {**asked[0], "text": asked[1]["text"]}
    asked[3] = {**asked[3], "text": "storm engine"}
    write_jsonl(made.folder / "queries.jsonl", asked)
    said = announced(config)
    found = said["next_run"]["queries"]
    assert [found[n] for n in ("added", "changed", "removed")] == [2, 2, 2]
    assert (found["queries"], found["texts"], found["new_texts"]) == (24, 23, 3)
    assert said["next_run"]["pairs"]["exact"] and said["next_run"]["pairs"]["to_score"] == 3 * 20
    assert "ingest corpus" not in said["stages"]
    check(said, run(config))


def test_a_deeper_step_and_another_model_are_scored_again(
    made: Collection, tmp_path: Path, write_config: Config
) -> None:
    config = write_config(made.config(tmp_path / "lake", rerank={"depth": 5}))
    run(config)
    deeper = announced(config, "rerank.depth=12")
    assert deeper["next_run"]["pairs"]["to_score"] == 24 * 7
    check(deeper, run(config, "rerank.depth=12"))
    other = announced(config, "rerank.model=builtin:reranker", "rerank.depth=12")["next_run"]
    (line,) = other["again"]
    assert line["what"] == "model of rerank" and line["again"] == PAIRS
    assert line["before"].startswith("toy:overlap") and line["now"].startswith("builtin:reranker")
    assert other["pairs"] == {"needed": 288, "known": 0, "to_score": 288, "exact": True}


def test_what_an_interrupted_run_has_done_is_not_priced_again(
    made: Collection, tmp_path: Path, write_config: Config
) -> None:
    config = write_config(made.config(tmp_path / "lake"))
    whole = announced(config)
    with opened(config) as job:
        execute(job, last="merge")
    said = announced(config)
    assert said["seconds"] < whole["seconds"] / 2
    assert said["stages"]["merge"]["units"] == 0 and "embed documents" not in said["stages"]
    assert said["next_run"]["pairs"]["to_score"] == 24 * 20
    with opened(config) as job:
        execute(job, last="rerank")
    # One unit is lost: its pairs are to be scored, the others are known.
    job.store.place[0].rm(f"{tmp_path}/lake/tiny/{job.report.scored[0].path}/manifest.json")
    records = sorted((tmp_path / "lake").rglob("rerank-*/_done/*.json"))
    lost = json.loads(records[0].read_bytes())["stats"]["pairs_scored"]
    records[0].unlink()
    left = announced(config)
    assert 0 < left["next_run"]["pairs"]["to_score"] == lost < 24 * 20
    check(
        {**left, "next_run": {**left["next_run"], "pairs": whole["next_run"]["pairs"]}}, run(config)
    )


@pytest.mark.parametrize(
    ("sets", "what", "computed"),
    [
        (["results.keep=3"], "results.keep", NEW),
        (["corpus.empty_text=keep"], "corpus.empty_text", CORPUS),
        (["index.factory=IVF4,Flat"], "index.factory", INDEX),
        (["retrieve.bm25.k1=2.0"], "retrieve.bm25.k1", LISTS),
    ],
)
def test_another_setting_says_what_is_computed_again(
    made: Collection,
    tmp_path: Path,
    write_config: Config,
    sets: list[str],
    what: str,
    computed: str,
) -> None:
    config = write_config(made.config(tmp_path / "lake", retrieve={"bm25": {"weight": 0.3}}))
    run(config)
    said = announced(config, *sets)
    (line,) = said["next_run"]["again"]
    assert line["what"] == what and line["again"] == computed
    came = run(config, *sets)
    check(said, came)
    searched = came["units"].get("search", 0) > 0 and "carry" not in came["units"]
    assert searched == (computed != NEW)
    assert (came["units"].get("embed documents", 0) > 0) == (computed == CORPUS)


@pytest.mark.parametrize(
    ("stage", "computed"),
    [("segment", CORPUS), ("search", LISTS), ("embed", VECTORS), ("rank", NEW)],
)
def test_an_upgraded_stage_says_what_is_computed_again(
    made: Collection,
    tmp_path: Path,
    write_config: Config,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    computed: str,
) -> None:
    config = write_config(made.config(tmp_path / "lake"))
    run(config)
    version = raise_version(monkeypatch, stage) - 1
    line = {"what": f"stage {stage}", "before": version, "now": version + 1}
    said = announced(config)
    assert said["next_run"]["again"] == [{**line, "again": READERS}]
    changed = announced(config, "results.keep=3")["next_run"]["again"]
    assert {**line, "again": computed} in changed and len(changed) == 2
    came = run(config)
    if stage != "rank":  # Its scores are those of the earlier attempt, which the run's counts hold.
        check(said, came)


def test_a_plan_on_a_lake_with_work_prices_what_is_left(
    made: Collection, tmp_path: Path, write_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "lake"
    config = write_config(made.config(root))
    run(config)
    write_jsonl(made.folder / "queries.jsonl", made.queries[1:])
    capsys.readouterr()
    plan_verb(config, json=True, from_scratch=True)
    whole = orjson.loads(capsys.readouterr().out)
    assert "next_run" not in whole and not whole["stored"] and whole["pairs"] == 23 * 20
    plan_verb(config, json=True)
    said = orjson.loads(capsys.readouterr().out)
    assert said["seconds"] < whole["seconds"] and said["next_run"]["pairs"]["to_score"] == 0
    assert said["stored"] and len(list(root.rglob(stored_forecast.NAME))) == 1
    came = run(config)
    check(said, came)
    assert came["forecast"]["seconds"] == said["seconds"]
    assert set(came["actual"]["stages"]) <= {*said["stages"], "evaluate"}


def test_the_bottleneck_names_the_setting_that_moves_it() -> None:
    from nightrank.config.schema import PipelineConfig

    def of(stage: str, units: int, **cluster: Any) -> dict[str, Any]:
        plain = {"name": "j", "root": "r", "corpus": {"path": "c"}, "queries": {"path": "q"}}
        config = PipelineConfig.model_validate({**plain, "cluster": cluster})
        workers = {name: {"workers": 2, "threads": 1, "gpus": 0.0} for name in ("general", "model")}
        pools: dict[str, Any] = {**workers, "index": workers["general"], "gpus": 0.0}
        own = {kind: {"workers": 3} for kind in ("merge",)}
        pools |= {"is_ray": config.cluster.executor == "ray", "own": own}
        stages = {"start": {"seconds": 99.0, "units": 0}, stage: {"seconds": 5.0, "units": units}}
        found = bottleneck(config, {"stages": stages, "pools": pools})
        assert found is not None and found["stage"] == stage
        return found

    there = {"address": "ray://head:10001"}
    found = of("merge", 64, **there)
    assert found["text"] == "merge waits for 2 general workers: cluster.pools.general.workers"
    assert of("rerank", 64, **there)["setting"] == "cluster.pools.model.workers"
    assert of("search", 64, **there)["setting"] == "cluster.pools.general.workers"
    assert of("merge", 1, **there)["text"].endswith(
        "for 2 general workers: layout.query_shard_rows"
    )
    assert of("rerank", 2, **there)["setting"] == "rerank.unit_tokens"
    cut_by = {
        "embed documents": "layout.document_shard_rows",
        "embed queries": "layout.query_shard_rows",
        "build index": "index.shard_bytes",
        "changes": "",
    }
    assert {stage: of(stage, 1, **there)["setting"] for stage in cut_by} == cut_by
    assert "cluster.address" in of("merge", 64, **ON_RAY)["text"]
    own = {"merging": {"stages": ["merge"], "workers": 3}}
    assert of("merge", 64, pools=own, **there)["setting"] == "cluster.pools.merging.workers"
    assert of("merge", 64, executor="serial")["setting"] == "cluster.executor"


def test_a_dry_run_refuses_what_the_run_would(
    made: Collection, tmp_path: Path, write_config: Config
) -> None:
    write_jsonl(made.folder / "corpus.jsonl", [{"_id": "a", "text": ""}])
    with pytest.raises(NightrankError) as caught:
        announced(write_config(made.config(tmp_path / "lake")))
    assert caught.value.exit_code == 4


def test_a_corpus_that_the_gate_would_hold_back_is_announced(
    made: Collection, tmp_path: Path, write_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(made.config(tmp_path / "lake"))
    run(config)

    def said() -> list[str]:
        loaded = load_config(config, [])
        store = open_lake(loaded.root, loaded.name, {})
        plan = make_plan(loaded, store, keeps=False)
        return obstacles(plan, store, counted(plan, store)[0])

    write_jsonl(made.folder / "corpus.jsonl", made.documents[10:])
    assert said() == []
    write_jsonl(made.folder / "corpus.jsonl", made.documents[100:])
    (line,) = said()
    reason = "max_delete_fraction: 0.3333, allowed 0.2 (100 of 300 documents"
    assert reason in line and reason in called(capsys, "nightly", config, code=11)


def test_nothing_is_compared_before_something_is_published(
    made: Collection, tmp_path: Path, write_config: Config
) -> None:
    loaded = load_config(write_config(made.config(tmp_path / "lake")), [])
    store = open_lake(loaded.root, loaded.name, {})
    plan = make_plan(loaded, store, keeps=False)
    assert recomputed(plan, store) == [] and not reusable(plan).segments


def test_a_published_run_changes_nothing(
    made: Collection, tmp_path: Path, write_config: Config
) -> None:
    config = write_config(made.config(tmp_path / "lake"))
    run(config)
    for _ in range(2):
        said = announced(config)
        found = said["next_run"]
        assert said["stages"] == {} and found["pairs"]["to_score"] == 0
        assert [found[kind]["rows"] for kind in ("documents", "queries")] == [300, 24]
        for kind in ("documents", "queries"):
            assert [found[kind][name] for name in ("added", "changed", "removed")] == [0, 0, 0]
        assert found["queries"]["new_texts"] == 0
        write_jsonl(made.folder / "corpus.jsonl", made.documents[5:])
        run(config)
        write_jsonl(made.folder / "corpus.jsonl", made.documents)
        run(config)
