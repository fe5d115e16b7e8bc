"""`nightrank plan`: what it says beside what the run then finds, and where it is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from nightrank.api.forecast_table import count, duration, size, table
from nightrank.cli.history import history
from nightrank.cli.plan import plan
from nightrank.cli.run import run as run_verb
from nightrank.cli.status import status
from nightrank.errors import NightrankError
from nightrank.forecast.artifacts import BOOKKEEPING, NAMES, OF_STEPS
from nightrank.generations import stored_forecast
from nightrank.generations.results import open_lake
from nightrank.storage.log import Log
from tests.support.collection import Collection
from tests.support.lake import execute, opened, run

Config = Callable[..., str]


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return Collection(tmp_path_factory.mktemp("plan"), documents=2400, queries=120)


@pytest.fixture
def asked(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    def ask(config: str, **options: Any) -> dict[str, Any]:
        capsys.readouterr()
        plan(config, json=True, **options)
        (line,) = capsys.readouterr().out.splitlines()
        return dict(orjson.loads(line))

    return ask


def held(root: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes by artifact and units by stage, of everything in a lake."""
    sizes: dict[str, int] = {}
    units: dict[str, int] = {}
    for path in root.rglob("manifest.json"):
        made = json.loads(path.read_text())
        stage = made["stage"]
        if stage == "evaluate":
            continue
        units[stage] = units.get(stage, 0) + len(made["shards"])
        for shard in made["shards"]:
            for name, file in shard["files"].items():
                kind = NAMES.get((stage, name))
                if kind is None and stage in ("merge", "rerank", "rank"):
                    kind = OF_STEPS.get(name)
                sizes[kind or BOOKKEEPING] = sizes.get(kind or BOOKKEEPING, 0) + file["size"]
    return sizes, units


def test_a_plan_says_what_the_run_then_finds(
    made_up: Collection, tmp_path: Path, write_config: Config, asked: Callable[..., dict[str, Any]]
) -> None:
    config = write_config(made_up.config(tmp_path / "lake"))
    said = asked(config)
    assert said["whole"] and said["stored"]
    came = run(config)
    assert said["documents"]["kept"] == came["documents"]["indexed"] == 2400
    assert said["queries"]["kept"] == came["queries"]["ranked"] == 120
    assert said["pairs"] == came["pairs_scored"] == 2400
    sizes, units = held(tmp_path / "lake")
    assert {n: s["units"] for n, s in said["stages"].items() if n != "start"} == units
    assert set(said["artifacts"]) == {*sizes, "records"}
    for name, there in sizes.items():
        assert said["artifacts"][name] == pytest.approx(there, rel=0.25), name
    assert said["bytes"] == pytest.approx(sum(sizes.values()), rel=0.1)


def test_a_part_of_the_corpus_tells_the_size_of_the_lake(
    made_up: Collection, tmp_path: Path, write_config: Config, asked: Callable[..., dict[str, Any]]
) -> None:
    config = write_config(made_up.config(tmp_path / "lake"))
    said = asked(config, sample=600)
    assert said["sampled"]["documents"] == 600
    run(config)
    sizes, _ = held(tmp_path / "lake")
    assert said["bytes"] == pytest.approx(sum(sizes.values()), rel=0.15)
    for name in ("documents", "tokens", "embeddings", "index", "candidates", "ranked"):
        assert said["artifacts"][name] == pytest.approx(sizes[name], rel=0.25), name


def test_units_of_rejects_repeats_and_two_steps_are_counted(
    tmp_path: Path, write_config: Config, asked: Callable[..., dict[str, Any]]
) -> None:
    odd = Collection(tmp_path / "odd", documents=700, queries=40)
    with (odd.folder / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "d00001", "title": "", "text": "again"}\n{"_id": "x", "text": ""}\n')
    with (odd.folder / "queries.jsonl").open("a") as file:
        again = {**odd.queries[0], "_id": "again"}
        file.write(json.dumps(again) + "\n")
    steps = [
        {"name": name, "model": "toy:overlap", "depth": depth}
        for name, depth in (("fast", 15), ("strong", 5))
    ]
    config = write_config(odd.config(tmp_path / "lake", rerank=steps))
    said = asked(config)
    came = run(config)
    assert said["documents"]["rows"] == came["documents"]["in"] == 702
    assert said["documents"]["kept"] == came["documents"]["indexed"] == 700
    assert (said["queries"]["kept"], said["queries"]["distinct"]) == (41, 40)
    assert said["pairs"] == came["pairs_scored"] == 40 * 20
    _, units = held(tmp_path / "lake")
    assert {n: s["units"] for n, s in said["stages"].items() if n != "start"} == units


def test_the_forecast_is_found_again_beside_what_came(
    made_up: Collection,
    tmp_path: Path,
    write_config: Config,
    asked: Callable[..., dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = write_config(made_up.config(tmp_path / "lake"))
    first = asked(config)
    again = asked(config, sample=1000)
    assert first["stored"] and not again["stored"] and "earlier forecast" in again["note"]
    run_verb(config)
    closing = capsys.readouterr().out
    assert closing.count("forecast, then actual:") == 1
    entry = Log(open_lake(str(tmp_path / "lake"), "tiny"), "results").current()
    assert entry is not None
    forecast, actual = entry.body["forecast"], entry.body["actual"]
    assert forecast["seconds"] == first["seconds"] and forecast["bytes"] == first["bytes"]
    assert forecast["stages"]["rerank"] == first["stages"]["rerank"]["seconds"]
    assert (forecast["pairs"], forecast["documents"]) == (2400, 2400)
    assert (actual["pairs"], actual["documents"], actual["queries"]) == (2400, 2400, 120)
    assert actual["units_before"] == 0 and actual["seconds"] > 0
    assert set(actual["stages"]) <= set(forecast["stages"])
    sizes, _ = held(tmp_path / "lake")
    assert actual["bytes"] == sum(sizes.values())
    history(config, json=True)
    (line,) = orjson.loads(capsys.readouterr().out)
    assert line["forecast"] == forecast and line["actual"] == actual
    status(config)
    line = stored_forecast.comparison(entry.body["forecast"], entry.body["actual"])
    assert line and line in capsys.readouterr().out
    later = asked(config)
    assert not later["stored"] and "already published" in later["note"]


def test_a_resumed_run_says_that_its_seconds_are_not_all(
    made_up: Collection, tmp_path: Path, write_config: Config, asked: Callable[..., dict[str, Any]]
) -> None:
    config = write_config(made_up.config(tmp_path / "lake"))
    asked(config)
    with opened(config) as job:
        assert execute(job, last="merge")["generation"] is None
    came = run(config)
    assert came["actual"]["units_before"] > 20
    assert "resumed" in stored_forecast.comparison(came["forecast"], came["actual"])


def test_a_run_without_a_forecast_records_none(
    made_up: Collection, tmp_path: Path, write_config: Config
) -> None:
    came = run(write_config(made_up.config(tmp_path / "lake")))
    assert (
        "forecast" not in came
        and "actual" not in came
        and stored_forecast.comparison(None, None) == ""
    )
    entry = Log(open_lake(str(tmp_path / "lake"), "tiny"), "results").current()
    assert entry is not None and not {"forecast", "actual"} & set(entry.body)


def test_a_damaged_forecast_is_named(tmp_path: Path) -> None:
    store = open_lake(str(tmp_path), "tiny")
    assert stored_forecast.kept(store, "results/x.0") is None
    store.put_if_absent("results/x.0/forecast.json", b'{"seconds": 1}')
    with pytest.raises(NightrankError) as caught:
        stored_forecast.kept(store, "results/x.0")
    assert caught.value.code == "E_CORRUPT" and "forecast.json" in str(caught.value)


def test_a_hundred_million_documents_are_planned_from_a_few(
    made_up: Collection, tmp_path: Path, write_config: Config, asked: Callable[..., dict[str, Any]]
) -> None:
    sections: dict[str, Any] = {
        "retrieve": {"depth": 100},
        "rerank": {"model": "builtin:reranker", "depth": 100},
        "encoder": {"model": "builtin:minilm"},
        "index": {"factory": "auto"},
        "budget": {"until": "06:00", "gpu_hours": 1.0},
        "cluster": {
            "executor": "ray",
            "pools": {"general": {"workers": 64}, "model": {"workers": 16}},
        },
    }
    config = write_config(made_up.config(tmp_path / "lake", **sections))
    wanted = {"documents": 100_000_000, "queries": 10_000_000, "device": "H100"}
    said = asked(config, **wanted, node_memory=512.0, gpu_hour=2.5, put_1000=0.005, get_1000=0.0004)
    assert said["pairs"] == 10**9 and not said["whole"] and not said["stored"]
    assert not (tmp_path / "lake").exists()
    # 1.5 kB a vector at most, float32 hardly compresses; a pair is stored twice, hash and all.
    assert said["artifacts"]["embeddings"] == pytest.approx(110e6 * 384 * 4, rel=0.1)
    assert said["artifacts"]["index"] == 100e6 * 384 * 4
    assert 15e9 < said["artifacts"]["score stores"] < 40e9
    assert said["stages"]["rerank"]["gpu_seconds"] > 100
    assert said["gpu_hours"] == pytest.approx(16 * said["seconds"] / 3600, rel=1e-3)
    hours = sum(stage["gpu_hours"] for stage in said["stages"].values())
    assert said["gpu_hours"] == pytest.approx(hours, rel=1e-3)
    # Exact search is the GPU's; without one an approximate index is, and searched by CPUs.
    assert said["index"]["flat"] and said["memory"]["index_gpu"] > 0
    assert 1 < said["stages"]["search"]["gpu_seconds"] / 3600 < 10
    sections["cluster"]["pools"]["index"] = {"gpus": 0}
    config = write_config(made_up.config(tmp_path / "lake", **sections))
    by_cpu = asked(config, **wanted, node_memory=512.0)
    assert not by_cpu["index"]["flat"] and by_cpu["artifacts"]["index"] > 100e6 * 384 * 4
    assert by_cpu["stages"]["search"]["gpu_seconds"] == by_cpu["memory"]["index_gpu"] == 0
    assert said["usd"]["gpu"] == pytest.approx(2.5 * said["gpu_hours"], rel=1e-3)
    assert said["night"]["pairs"] < 0.05 * said["pairs"]
    assert said["night"]["seconds"] < 0.2 * said["seconds"]
    text = " ".join(said["warnings"])
    assert "budget.until" in text and "budget.gpu_hours" in text and "free" in text
    lines = table(said, "tiny")
    assert len(lines) <= 60 and max(map(len, lines[:-1])) <= 160
    assert any("USD" in line for line in lines) and any("GPU-hours" in line for line in lines)
    night, whole = said["usd"]["night"], said["usd"]["total"]
    assert 0 < night < 0.2 * whole


def test_gpus_of_other_machines_are_not_forecast_by_this_cpu(
    made_up: Collection, tmp_path: Path, write_config: Config, asked: Callable[..., dict[str, Any]]
) -> None:
    pools = {"model": {"workers": 2, "gpus": 1}}
    config = write_config(made_up.config(tmp_path / "lake", cluster={"pools": pools}))
    said = asked(config)
    assert not said["stored"] and any("name --device" in text for text in said["warnings"])
    told = asked(config, device="L40S")
    assert told["stored"] and not any("name --device" in text for text in told["warnings"])


def test_what_cannot_be_is_refused_before_anything_is_written(
    made_up: Collection, tmp_path: Path, write_config: Config
) -> None:
    sections = {"rerank": {"unit_tokens": 100}, "retrieve": {"depth": 100}}
    config = write_config(made_up.config(tmp_path / "lake", **sections))
    with pytest.raises(NightrankError) as caught:
        plan(config, documents=10_000_000, queries=1_000_000)
    assert caught.value.exit_code == 2 and "rerank.unit_tokens" in str(caught.value)
    with pytest.raises(NightrankError) as caught:
        plan(config, device="abacus")
    assert caught.value.code == "E_USAGE"


def test_numbers_take_few_characters() -> None:
    assert [count(n) for n in (999, 12_345, 1_234_567, 10**9)] == [
        "999",
        "12,345",
        "1.235 M",
        "1 G",
    ]
    assert [size(n) for n in (10, 2_500, 3.2e12)] == ["10 B", "2.5 kB", "3.2 TB"]
    told = [duration(s) for s in (3.04, 600, 7_500, 200_000)]
    assert told == ["3.0 s", "10 min", "2 h 05 min", "2 d 7 h"]
