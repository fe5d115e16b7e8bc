"""Nights that build upon each other give what a run from nothing gives."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nightrank.cli.verify import verify
from nightrank.generations import retention
from nightrank.generations.results import open_lake
from nightrank.generations.retention import collect
from nightrank.stages import changes, delta
from nightrank.storage.expiry import ages
from nightrank.storage.log import Log
from tests.support.cluster import ON_RAY
from tests.support.collection import write_jsonl
from tests.support.lake import digests, run, table
from tests.support.world import World, same_template

Config = Callable[..., str]
# More of them when asked for: NIGHTRANK_SEQUENCES=13 makes 52 with toy models.
SEQUENCES = int(os.environ.get("NIGHTRANK_SEQUENCES", "1"))
NIGHTS_OF_MODELS = 8 if SEQUENCES > 1 else 3


def rows(root: Path) -> pa.Table:
    return table(root)


def nights(world: World, folder: Path, count: int, write: Config, **sections: Any) -> list[Any]:
    """Runs so many nights; after each, compares with a full rebuild."""
    summaries = []
    config = write(world.config(folder / "lake", **sections), "nights.yaml")
    for number in range(count):
        if number:
            world.night()
        world.write()
        summaries.append(run(config))
        fresh = folder / f"fresh-{number}"
        same_template(folder / "lake", fresh)
        run(write(world.config(fresh, **sections), f"fresh-{number}.yaml"))
        assert rows(folder / "lake").equals(rows(fresh)), f"night {number}"
        for name in ("queries", "rejects"):
            assert table(folder / "lake", name).equals(table(fresh, name)), f"night {number}"
    verify(config)
    return summaries


@pytest.mark.parametrize("seed", range(SEQUENCES))
@pytest.mark.parametrize("kind", ["flat", "dense", "ivf", "merged"])
def test_any_sequence_of_nights_gives_the_rows_of_a_full_rebuild(
    tmp_path: Path,
    write_config: Config,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    seed: int,
) -> None:
    sections: dict[str, Any] = {"retrieve": {"depth": 15}, "rerank": {"depth": 12}}
    if kind == "dense":
        sections["retrieve"] = {"depth": 15, "bm25": {"weight": 0.0}}
    if kind == "merged":  # Segments are merged every other night.
        sections["nightly"] = {"max_segments": 2, "max_dead_fraction": 0.1, "store_files": 2}
        sections["layout"] = {"document_shard_rows": 70, "query_shard_rows": 9}
        monkeypatch.setattr(delta, "ROWS_PER_TASK", 60)
        monkeypatch.setattr(changes, "LISTS_PER_TASK", 8)
    if kind == "ivf":
        sections["index"] = {"factory": "IVF8,Flat", "search_parameters": "nprobe=3"}
    made = nights(World(tmp_path, seed), tmp_path, 8, write_config, **sections)
    # What stood was taken over: on no later night were all pairs scored.
    assert all(night["pairs_scored"] < night["pairs_needed"] for night in made[1:])
    if kind == "merged":
        store = open_lake(str(tmp_path / "lake"), "tiny")
        entries = Log(store, "index").published()
        assert sum(entry.body["compacted"] is not None for entry in entries) >= 2
    came = [night["documents_added"] + night["documents_changed"] for night in made]
    assert [night["documents_embedded"] for night in made] == came


def test_a_change_feed_gives_what_the_whole_corpus_would(
    tmp_path: Path, write_config: Config
) -> None:
    """Nights of a feed, late rows and rows without effect among them, against one feed of all."""
    world, rng = World(tmp_path, 11), random.Random(3)
    sections: dict[str, Any] = {"retrieve": {"depth": 15}, "rerank": {"depth": 12}}
    feed = {**world.config(tmp_path / "lake", **sections)}
    feed["corpus"] = {"path": str(tmp_path / "feed.jsonl"), "feed": True}
    config = write_config(feed, "feed.yaml")
    before: dict[str, str] = {}
    stamp = 0
    for number in range(5):
        if number:
            world.night()
        world.write()
        changes = []
        for name in sorted(set(before) | set(world.documents)):
            now = world.documents.get(name)
            if now == before.get(name):
                continue
            stamp += 2
            row = {"_id": name, "op": "upsert" if now else "delete", "sequence": stamp}
            changes.append({**row, "text": now} if now else row)
            if rng.random() < 0.3:  # An earlier state of the same document, told late.
                late = {"_id": name, "op": "upsert", "text": "too late", "sequence": stamp - 1}
                changes.append(late)
        same = [n for n, text in before.items() if world.documents.get(n) == text][:3]
        for name in same:
            changes.append({"_id": name, "op": "upsert", "text": before[name], "sequence": stamp})
        changes.append({"_id": "never-there", "op": "delete", "sequence": stamp})
        rng.shuffle(changes)
        write_jsonl(tmp_path / "feed.jsonl", changes)
        done = run(config)
        assert done["documents"]["indexed"] == len(world.documents)
        assert run(config)["already_published"]  # The same feed again adds nothing.
        fresh = tmp_path / f"fresh-{number}"
        same_template(tmp_path / "lake", fresh)
        everything = [
            {"_id": name, "text": text, "op": "upsert", "sequence": 1}
            for name, text in world.documents.items()
        ]
        whole = {**world.config(fresh, **sections)}
        path = write_jsonl(tmp_path / f"whole-{number}.jsonl", everything)
        whole["corpus"] = {"path": str(path), "feed": True}
        run(write_config(whole, f"fresh-{number}.yaml"))
        assert rows(tmp_path / "lake").equals(rows(fresh)), f"night {number}"
        before = dict(world.documents)
    verify(config)


def test_a_bad_row_of_a_feed_is_rejected_with_its_reason(
    tmp_path: Path, write_config: Config
) -> None:
    world = World(tmp_path, 2, documents=20)
    world.write()
    rows = [
        {"_id": n, "text": t, "op": "upsert", "sequence": 1} for n, t in world.documents.items()
    ]
    rows[3]["op"] = "erase"
    rows[5]["sequence"] = None
    write_jsonl(tmp_path / "feed.jsonl", rows)
    plain = world.config(tmp_path / "lake")
    plain["corpus"] = {"path": str(tmp_path / "feed.jsonl"), "feed": True, "reject_budget": 0.5}
    assert run(write_config(plain))["documents"] == {
        "in": 20,
        "indexed": 18,
        "rejected": 2,
        "superseded": 0,
    }
    found = table(tmp_path / "lake", "rejects")["detail"].to_pylist()
    assert sorted(found) == ["op: expected upsert or delete", "sequence: null"]


@pytest.mark.models
@pytest.mark.parametrize("seed", range(SEQUENCES))
def test_the_built_in_models_give_a_rebuilds_rows(
    tmp_path: Path, write_config: Config, seed: int
) -> None:
    """Scores may differ by where a pair stood in its batch, and no more than that."""
    world = World(tmp_path, 100 + seed, queries=8)
    sections: dict[str, Any] = {
        "encoder": {"model": "builtin:minilm"},
        "retrieve": {"depth": 10},
        "rerank": {"model": "builtin:reranker", "depth": 10, "precision": "exact"},
    }
    config = write_config(world.config(tmp_path / "lake", **sections), "nights.yaml")
    for number in range(NIGHTS_OF_MODELS):
        if number:
            world.night()
        world.write()
        run(config)
    fresh = tmp_path / "fresh"
    same_template(tmp_path / "lake", fresh)
    run(write_config(world.config(fresh, **sections), "fresh.yaml"))
    one, other = rows(tmp_path / "lake"), rows(fresh)
    for name in ("query_id", "rank"):
        assert one[name].equals(other[name])
    for name in ("score", "rerank_score", "first_stage_score"):
        assert np.abs(one[name].to_numpy() - other[name].to_numpy()).max() < 1e-4
    # Documents change places only where their scores are that near: each has its own score in both.
    kept, last = {}, {}
    for row in other.to_pylist():
        kept[row["query_id"], row["doc_id"]] = last[row["query_id"]] = row["score"]
    for row in one.to_pylist():
        key = row["query_id"], row["doc_id"]
        assert abs(row["score"] - kept.get(key, last[row["query_id"]])) < 1e-4, key


@pytest.mark.ray
def test_nights_on_ray_hold_the_bytes_of_nights_in_one_process(
    tmp_path: Path, write_config: Config, ray_cluster: None
) -> None:
    merging = {"max_segments": 2}
    layout = {"document_shard_rows": 90, "query_shard_rows": 9}
    worlds = {name: World(tmp_path / name, 21) for name in ("serial", "ray")}
    for number in range(3):
        found = {}
        for name, world in worlds.items():
            if number:
                world.night()
            world.write()
            plain = world.config(tmp_path / f"{name}-lake", layout=layout, nightly=merging)
            run(write_config({**plain, "cluster": {**ON_RAY, "executor": name}}, f"{name}.yaml"))
            digested = digests(tmp_path / f"{name}-lake")
            found[name] = {table: digested[table] for table in ("ranked", "queries", "changes")}
        assert found["ray"] == found["serial"], f"night {number}"


@pytest.mark.s3
def test_nights_on_s3_and_what_is_collected_there(
    tmp_path: Path, s3_url: str, write_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, root = World(tmp_path, 31), f"{s3_url}/nights"
    config = write_config(world.config(root))  # type: ignore[arg-type]
    beside = write_config(world.config(tmp_path / "local"), "local.yaml")
    for number in range(3):
        if number:
            world.night()
        world.write()
        run(config)
        run(beside)
        assert table(root).equals(table(tmp_path / "local"))
    store = open_lake(root, "tiny")
    assert collect(store, retain=1, min_age_days=1) == []  # By the store's clock all is of today.
    real = retention.clock
    monkeypatch.setattr(retention, "clock", lambda store: real(store) + 9 * 86_400)
    gone = collect(store, retain=1, min_age_days=7)
    assert gone and not collect(store, retain=1, min_age_days=7)
    assert all(not ages(store, one.path, 0.0)[0] for one in gone if one.path.count("/") > 1)
    verify(config)
    assert table(root).equals(table(tmp_path / "local"))
