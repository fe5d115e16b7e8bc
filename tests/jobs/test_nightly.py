"""What an operator does with nights: gates, changes, older generations, collection."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as pads
import pytest

from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from nightrank.cli.verify import verify
from nightrank.errors import NightrankError
from nightrank.generations.results import open_lake, read_results
from nightrank.runtime.budget import Meter
from nightrank.stages import carry
from nightrank.storage.dataset import Dataset
from nightrank.storage.log import Log
from tests.support.collection import Collection, write_jsonl
from tests.support.lake import days_later, execute, opened, run, table
from tests.support.program import called, night
from tests.support.world import World, same_template

Config = Callable[..., str]


@pytest.fixture
def lake(tmp_path: Path) -> tuple[Collection, Path]:
    made = Collection(tmp_path / "in", documents=600, queries=24)
    return made, tmp_path / "lake"


def rewrite(made: Collection, documents: list[dict[str, Any]]) -> None:
    write_jsonl(made.folder / "corpus.jsonl", documents)


def test_a_night_costs_what_changed_and_tells_it(
    lake: tuple[Collection, Path], write_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    made, root = lake
    config = write_config(made.config(root))
    first = night(capsys, config)
    assert first["published"] and first["documents_embedded"] == 600
    assert first["pairs_needed"] == first["pairs_scored"] == 24 * 20
    again = night(capsys, config)
    assert not again["published"] and again["generation"] == 1
    assert again["documents_embedded"] == again["pairs_scored"] == 0
    changed = [*made.documents[6:], {**made.documents[6], "_id": "new"}]
    changed[10] = {**changed[10], "text": changed[11]["text"]}
    rewrite(made, changed)
    second = night(capsys, config)
    counts = {k: second[f"documents_{k}"] for k in ("added", "changed", "removed", "embedded")}
    assert counts == {"added": 1, "changed": 1, "removed": 6, "embedded": 2}
    assert second["gate"]["passed"] and second["documents"]["indexed"] == 595
    assert second["pairs_needed"] == 24 * 20 and second["pairs_scored"] < 40
    assert second["pairs_reused"] + second["pairs_scored"] == second["pairs_needed"]
    verify(config)


def test_what_is_in_the_input_in_another_form_costs_nothing(
    lake: tuple[Collection, Path], write_config: Config
) -> None:
    """Rows in another order and another file: the same documents."""
    made, root = lake
    run(write_config(made.config(root)))
    moved = made.folder / "moved"
    write_jsonl(moved / "b.jsonl", made.documents[:300])
    write_jsonl(moved / "a.jsonl", made.documents[:300:-1] + made.documents[300:301])
    again = run(write_config(made.config(root, corpus={"path": str(moved)})))
    assert again["documents_added"] == again["documents_embedded"] == again["pairs_scored"] == 0
    assert table(root).equals(table(root, generation=1))
    changes = read_results(str(root), "tiny", "changes").to_table()
    assert changes.num_rows == 0


def test_changes_hold_what_a_reader_needs_to_follow(
    lake: tuple[Collection, Path], write_config: Config
) -> None:
    """Applied to the lists of the earlier night they give those of the later one."""
    made, root = lake
    config = write_config(made.config(root))
    run(config)

    def lists(generation: int) -> dict[str, list[tuple[str, int, float]]]:
        found: dict[str, list[tuple[str, int, float]]] = {}
        for name in table(root, "queries", generation)["query_id"].to_pylist():
            found[name] = []
        for row in table(root, generation=generation).to_pylist():
            found[row["query_id"]].append((row["doc_id"], row["rank"], row["score"]))
        return found

    rewrite(made, made.documents[30:])
    asked = [*made.queries[2:], {"_id": "q-new", "text": made.queries[0]["text"]}]
    asked[3] = {**asked[3], "text": asked[4]["text"]}
    write_jsonl(made.folder / "queries.jsonl", asked)
    run(config)
    followed = lists(1)
    for change in read_results(str(root), "tiny", "changes").to_table().to_pylist():
        if change["op"] == "delete":
            del followed[change["query_id"]]
        else:
            rows = change["list"]
            followed[change["query_id"]] = [(r["doc_id"], r["rank"], r["score"]) for r in rows]
    assert followed == lists(2)


def test_mass_deletion_is_stopped_before_anything_is_spent(
    lake: tuple[Collection, Path], write_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    made, root = lake
    config = write_config(made.config(root))
    night(capsys, config)
    rewrite(made, made.documents[:400])
    for verb in ("nightly", "reindex"):
        said = called(capsys, verb, config, code=11)
        assert "max_delete_fraction: 0.3333, allowed 0.2 (200 of 600 documents are missing" in said
    store = open_lake(str(root), "tiny")
    assert Log(store, "index").last() == Log(store, "results").last() == 1
    forced = night(capsys, config, "--force-publish", "half the catalogue was sold")
    assert forced["published"] and not forced["gate"]["passed"]
    assert "half the catalogue was sold" in called(capsys, "history", config)


def test_a_part_of_the_input_that_is_missing_is_no_deletion(
    lake: tuple[Collection, Path], write_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    made, root = lake
    parts = made.folder / "parts"
    for year, rows in (("2025", made.documents[:300]), ("2026", made.documents[300:])):
        write_jsonl(parts / f"year={year}" / "part.jsonl", rows)
    corpus = {"path": str(parts), "partitions": ["year=2025/*", "year=2026/*"]}
    config = write_config(made.config(root, corpus=corpus))
    night(capsys, config)
    (parts / "year=2025" / "part.jsonl").unlink()
    assert "partition 'year=2025/*'" in called(capsys, "nightly", config, code=4)


def test_a_night_that_fails_the_gate_stays_unpublished_and_says_why(
    lake: tuple[Collection, Path], write_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    made, root = lake
    config = write_config(made.config(root, gate={"min_overlap": 0.9}))
    night(capsys, config)
    # Every document says what another one said: lists of ids have nothing in common.
    texts = [document["text"] for document in made.documents]
    turned = zip(made.documents, texts[7:] + texts[:7], strict=True)
    rewrite(made, [{**document, "text": text} for document, text in turned])
    said = called(capsys, "nightly", config, code=11)
    assert "min_overlap" in said and "max_measure_drop" in said and "e.g. q0" in said
    assert Log(open_lake(str(root), "tiny"), "results").last() == 1
    assert "ready, not published: `nightrank nightly` says why" in called(capsys, "status", config)
    write_jsonl(made.folder / "queries.jsonl", made.queries[:12])
    said = called(capsys, "nightly", config, code=11)
    assert "max_withdrawn_queries: 0.5, allowed 0.2 (12 of 24 queries" in said
    write_jsonl(made.folder / "queries.jsonl", made.queries)
    # The limits are no part of the plan: the finished night is published without more work.
    open_gate = ["--set", "gate.min_overlap=0", "--set", "gate.max_measure_drop=1"]
    done = night(capsys, config, *open_gate)
    assert done["generation"] == 2 and not done["units"].get("rerank")


def test_the_halves_can_be_scheduled_apart(
    lake: tuple[Collection, Path], write_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    made, root = lake
    config = write_config(made.config(root))
    assert "run `nightrank reindex" in called(capsys, "rank", config, code=4)
    queries = made.folder / "queries.jsonl"
    queries.rename(made.folder / "later")
    first = json.loads(called(capsys, "reindex", config, "--json"))
    assert first["index_generation"] == 1 and first["documents_embedded"] == 600
    (made.folder / "later").rename(queries)
    (made.folder / "corpus.jsonl").rename(made.folder / "away")
    ranked = json.loads(called(capsys, "rank", config, "--json"))
    assert ranked["generation"] == 1 and ranked["documents"]["indexed"] == 600
    (made.folder / "away").rename(made.folder / "corpus.jsonl")
    rewrite(made, made.documents[20:])
    called(capsys, "reindex", config)
    assert "nothing to do" in called(capsys, "reindex", config)
    called(capsys, "rank", config)
    after = table(root)
    same_template(root, root.parent / "whole")
    kept = {"retrain_fraction": 1e9}
    run(write_config(made.config(root.parent / "whole", nightly=kept), "whole.yaml"))
    assert after.equals(table(root.parent / "whole"))
    called(capsys, "rank", config, "--index-generation", "1")
    assert table(root).equals(table(root, generation=1))
    verify(config)


def test_an_older_generation_can_be_had_again(
    lake: tuple[Collection, Path], write_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    made, root = lake
    config = write_config(made.config(root, gate={"max_measure_drop": 1}))
    night(capsys, config)
    before = table(root)
    rewrite(made, made.documents[10:])
    with opened(config) as overtaken:
        execute(overtaken, last="rank")
        night(capsys, config)
        assert not table(root).equals(before)
        said = called(capsys, "rollback", config, "--to", "1", "--reason", "half was missing")
        assert "published generation 3: generation 1 again" in said
        assert table(root).equals(before)
        verify(config)
        with pytest.raises(NightrankError, match="E_GATE.*half was missing"):
            execute(overtaken)
        called(capsys, "resume", config)
        with pytest.raises(NightrankError, match="E_STALE"):
            execute(overtaken)
    assert night(capsys, config)["generation"] == 5
    history = called(capsys, "history", config)
    assert "rollback" in history and "half was missing" in history
    assert "or a day, found 'previous_lists'" in called(
        capsys, "results", config, "--generation", "previous_lists", code=2
    )
    today = json.loads(called(capsys, "history", config, "--json"))[0]["time"][:10]
    found = json.loads(called(capsys, "results", config, "--generation", today, "--json"))
    assert found["generation"] == 5
    called(capsys, "results", config, "--generation", "2020-01-01", code=4)


def size(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def test_collection_keeps_what_readers_and_the_next_night_need(
    tmp_path: Path,
    write_config: Config,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(tmp_path / "in", seed=5, documents=500)
    root = tmp_path / "lake"
    config = write_config(world.config(root, retrieve={"depth": 15}, rerank={"depth": 12}))
    for _ in range(6):
        world.write()
        run(config)
        world.night()
    held = read_results(str(root), "tiny", generation=5)
    assert isinstance(held, pads.Dataset)
    before, tables = size(root), {n: table(root, generation=n) for n in (4, 5, 6)}
    assert "0 datasets" in called(capsys, "gc", config)  # All of it is of today.
    assert "the latest run may still be in use" in called(
        capsys, "gc", config, "--min-age-days", "0.5", code=2
    )
    with days_later(monkeypatch, 8):
        assert "would be deleted" in called(capsys, "gc", config)
        assert size(root) == before
        called(capsys, "gc", config, "--delete")
        assert "0 datasets" in called(capsys, "gc", config)
    assert size(root) < 0.8 * before
    for number, expected in tables.items():
        assert table(root, generation=number).equals(expected)
    assert held.to_table().num_rows == tables[5].num_rows  # A reader that had it open.
    said = called(capsys, "results", config, "--generation", "1", code=7)
    assert "generation 1 has expired" in said
    verify(config)
    world.write()
    after = run(config)
    assert after["pairs_reused"] > 0.5 * after["pairs_needed"]
    fresh = tmp_path / "fresh"
    same_template(root, fresh)
    run(write_config(world.config(fresh, retrieve={"depth": 15}, rerank={"depth": 12}), "f.yaml"))
    assert table(root).equals(table(fresh))
    # What only its next night needed is gone of an older generation: then that is made anew.
    called(capsys, "rollback", config, "--to", "5")
    assert table(root).equals(tables[5])
    called(capsys, "resume", config)
    assert run(config)["generation"] > after["generation"]
    assert table(root).equals(table(fresh))
    verify(config)


def test_a_publisher_that_slept_through_a_collection_is_refused(
    lake: tuple[Collection, Path], write_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightrank.generations.retention import collect

    made, root = lake
    config = write_config(made.config(root))
    run(config)
    with opened(config, "results.keep=3") as paused:
        execute(paused, last="changes")
        with days_later(monkeypatch, 30):
            gone = collect(paused.store, retain=3, min_age_days=7)
        assert any(one.path.startswith(paused.plan.folder) for one in gone)
        with pytest.raises(NightrankError) as caught:
            execute(paused)
    assert caught.value.code in ("E_CONDEMNED", "E_CORRUPT")
    assert run(config, "results.keep=3")["generation"] == 3
    verify(config)


def test_equal_lists_have_equal_digests_and_overlap_is_one() -> None:
    from nightrank.stages.changes import overlap

    assert overlap(["a", "b"], ["a", "b"]) == 1.0 == overlap([], [])
    assert overlap(["a", "b"], ["c", "d"]) == 0.0
    # By hand: depth 1 nothing in common, depth 2 both: 0.9 / (1 + 0.9).
    assert overlap(["a", "b"], ["b", "a"]) == pytest.approx(0.9 / 1.9)


def test_out_of_budget_it_stops_and_the_same_command_goes_on(
    lake: tuple[Collection, Path], write_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    made, root = lake
    config = write_config(made.config(root, budget={"usd": 0.0, "usd_per_hour": 9.0}))
    said = called(capsys, "nightly", config, code=10)
    assert "budget.usd = 0 is spent" in said and "continues from here" in said
    assert Log(open_lake(str(root), "tiny"), "results").last() == 0
    assert night(capsys, config, "--set", "budget.usd=5")["generation"] == 1


def test_the_deepest_depth_that_is_complete_can_be_published(
    lake: tuple[Collection, Path],
    write_config: Config,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, root = lake
    budget = {"usd": 1.0, "usd_per_hour": 1e-3, "rerank_first": [5, 10]}
    sections: dict[str, Any] = {"rerank": {"depth": 20}, "gate": {"max_measure_drop": 1}}
    sections["budget"] = {**budget, "on_budget": "publish_depth"}
    config = write_config(made.config(root, **sections))
    done = "rerank-*/manifest.json"

    def reason(meter: Meter) -> str:
        return "it is late" if len(list(root.rglob(done))) == 2 else ""

    with monkeypatch.context() as patch:
        patch.setattr(Meter, "reason", reason)
        assert "published at a depth of 10" in called(capsys, "nightly", config, code=10)
    shallow = table(root)
    assert shallow["rerank_score"].null_count == 0  # The kept head was scored.
    assert set(table(root, "queries")["policy"].to_pylist()) == {"rerank@10"}
    verify(config)
    run(write_config(made.config(root.parent / "ten", rerank={"depth": 10}), "ten.yaml"))
    assert table(root.parent / "ten").drop_columns(["score"]).equals(shallow.drop_columns("score"))
    whole = night(capsys, config)
    assert whole["generation"] == 2 and not whole["unfinished"]
    assert whole["units"]["rerank 6-10"] == 0 and whole["units"]["rerank 11-20"] > 0
    run(write_config(made.config(root.parent / "all", rerank={"depth": 20}), "all.yaml"))
    assert table(root).equals(table(root.parent / "all"))
    verify(config)
    assert not night(capsys, config)["published"]


def test_a_template_that_no_longer_fits_is_trained_anew_and_says_why(
    tmp_path: Path, write_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path / "in", seed=9, documents=400)
    ivf = {"factory": "IVF8,Flat", "search_parameters": "nprobe=1"}
    limits = {"recall_floor": 1.0, "retrain_fraction": 0.5, "max_imbalance": 1e9}
    root = tmp_path / "lake"

    def config(**nightly: float) -> str:
        return write_config(world.config(root, index=ivf, nightly={**limits, **nightly}))

    world.write()
    called(capsys, "nightly", config())
    world.documents["d-new"] = "solar panel battery"
    world.write()
    called(capsys, "nightly", config(), "--set", "gate.min_overlap=0")
    log = Log(open_lake(str(root), "tiny"), "index")
    paths = [entry.body["template"]["path"] for entry in log.published()]
    assert paths[0] != paths[-1]
    world.documents["d-newer"] = "solar panel charge"
    world.write()
    assert called(capsys, "reindex", config(recall_floor=0.0))
    assert log.published()[-1].body["template"]["path"] == paths[-1]
    world.documents["d-newest"] = "solar panel storm"
    world.write()
    guarded(lambda **_: app(["reindex", config(recall_floor=0.0, max_imbalance=1.0)]))
    assert "above nightly.max_imbalance = 1" in capsys.readouterr().err


def test_result_files_that_hold_the_same_are_named_where_they_lie(
    lake: tuple[Collection, Path], write_config: Config
) -> None:
    made, root = lake
    config = write_config(made.config(root, layout={"query_shard_rows": 4}))
    run(config)
    asked = [{**made.queries[0], "text": made.queries[1]["text"]}, *made.queries[1:]]
    write_jsonl(made.folder / "queries.jsonl", asked)
    run(config)
    log = Log(open_lake(str(root), "tiny"), "results")
    before, after = ({f["key"] for f in e.body["files"]["ranked"]} for e in log.published())
    assert len(before) == 6 and 4 <= len(before & after) < 6
    verify(config)


def test_an_audit_finds_a_list_that_is_not_what_it_should_be(
    lake: tuple[Collection, Path],
    write_config: Config,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A carry that forgets to bury: the full search of the due queries tells."""
    made, root = lake
    config = write_config(made.config(root, nightly={"audit_nights": 1}))
    night(capsys, config)
    rewrite(made, made.documents[60:])
    everything = ["--set", "gate.max_measure_drop=1"]
    with monkeypatch.context() as patch:
        patch.setattr(carry, "tombstoned_ordinals", lambda refs, read: np.zeros(0, np.int64))
        said = called(capsys, "nightly", config, *everything, code=11)
    assert "max_differing_lists" in said and "a full search found otherwise" in said


def test_scores_of_one_reranker_are_never_served_for_another(
    lake: tuple[Collection, Path], write_config: Config
) -> None:
    made, root = lake
    config = write_config(made.config(root))
    run(config)
    kept = run(config, "results.keep=3")
    assert kept["pairs_scored"] == 0 and kept["pairs_reused"] == kept["pairs_needed"] > 0
    other = run(config, "rerank.max_length_tokens=16")
    assert other["pairs_reused"] == 0 and other["pairs_scored"] == other["pairs_needed"]


def test_every_list_is_audited_in_turn_though_collections_take_numbers_too(
    lake: tuple[Collection, Path], write_config: Config
) -> None:
    """Each list is due every other night: two nights audit all, a `gc` after each or not."""
    made, root = lake
    config = write_config(made.config(root, nightly={"audit_nights": 2}))
    store, audited = open_lake(str(root), "tiny"), []
    for number in range(3):
        rewrite(made, made.documents[number:])
        run(config)
        log = Log(store, "results")
        folder = log.published()[-1].body["folder"]
        assert log.claim(log.last() + 1, {"kind": "condemn", "condemned": []})
        names = [name for name in store.folders(folder) if name.startswith("carry-")]
        carried = Dataset(store, f"{folder}/{names[0]}").manifest() if names else None
        audited.append(carried.total("audited") if carried else 0)
    assert audited[0] == 0 and 0 < audited[1] < 24 and sum(audited) == 24


def test_a_rollback_to_files_that_are_not_there_is_refused(
    lake: tuple[Collection, Path], write_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    made, root = lake
    config = write_config(made.config(root))
    run(config)
    run(config, "results.keep=3")
    store = open_lake(str(root), "tiny")
    ranked = Log(store, "results").read(1).body["files"]["ranked"][0]["key"]
    Path(store.path(ranked)).write_bytes(b"short")
    said = called(capsys, "rollback", config, "--to", "1", code=7)
    assert "found 5" in said and Log(store, "results").last() == 2
