"""Runs from Python: what they return, what they raise, and that the command line says the same."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import pytest

import nightrank
from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from nightrank.runtime.budget import Meter
from tests.support.collection import Collection, write_jsonl
from tests.support.published import Published


@pytest.fixture
def changing(tmp_path: Path) -> Collection:
    """A collection of its own, for tests that change the input."""
    return Collection(tmp_path / "in", documents=120, queries=8)


def test_a_result_has_counts_measures_and_datasets(published: Published) -> None:
    result = published.result
    assert (result.generation, result.index_generation) == (1, 1)
    assert result.published and not result.already_published
    assert result.counts is not None
    assert result.counts.documents["indexed"] == result.work.documents_embedded == 200
    assert result.counts.queries["ranked"] == result.work.queries_in == 12
    assert result.work.pairs_scored == result.work.pairs_needed == 12 * 20
    ranked = result.ranked.to_table()
    assert ranked.num_rows == result.counts.rows["ranked"] == 60
    assert result.ranked.files == list(result.files)
    assert result.queries.to_table(columns=["query_id"]).num_rows == 12
    assert result.table("rejects").count_rows() == 0
    measure = result.measures["nDCG@10"]
    assert 0 < measure.reranked <= measure.ceiling <= 1
    assert Path(result.report).read_text().startswith("<!doctype html>")
    assert all(shares.known == shares.judged for shares in result.judgements)
    assert result.units["rank"] == 1 and result.seconds["total"] > 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.generation = 2  # type: ignore[misc]


def test_a_result_prints_as_the_command_line_does(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = repr(published.result)
    assert shown.startswith("Result(generation=1, ranked_rows=60, nDCG@10=0.")
    assert "\n" not in shown and str(published.config["root"]) not in shown
    again = nightrank.run(published.config, progress=False)
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps(published.config))
    for json_line in (True, False):
        capsys.readouterr()
        arguments = ["run", str(path), *["--json"] * json_line]
        assert guarded(lambda arguments=arguments, **_: app(arguments)) == 0
        out = capsys.readouterr().out
        if json_line:
            assert {**json.loads(out), "seconds": 0} == {**again.to_dict(), "seconds": 0}
        else:
            *lines, last, read = out.splitlines()
            assert lines == str(again).splitlines()[:-1] and "results" in read
            assert last.startswith("already published as generation 1: 60 ranked rows in 1 ")


def test_published_work_is_returned_and_not_done_again(published: Published) -> None:
    again = nightrank.run(published.config, progress=False)
    first = published.result
    assert again.already_published and not again.published and again.generation == 1
    assert again.measures == first.measures and again.files == first.files
    assert again.counts == first.counts and again.work.pairs_needed == 0
    assert again.ranked.to_table().equals(first.ranked.to_table())
    # `evaluate` is found, not run: nothing else is looked at.
    assert again.units == {"evaluate": 0}


def test_a_result_keeps_to_its_own_generation(changing: Collection, tmp_path: Path) -> None:
    config = changing.config(tmp_path / "lake", evaluate={"qrels": None})
    first = nightrank.run(config, progress=False)
    rows = first.ranked.to_table()
    second = nightrank.run(config, {"results.keep": 2}, progress=False)
    assert (first.generation, second.generation) == (1, 2)
    assert second.work.pairs_scored == 0 and second.measures == {} and second.report == ""
    assert first.ranked.to_table().equals(rows)
    assert second.ranked.count_rows() == 16
    latest = nightrank.read_results(config["root"], "tiny")
    assert latest.to_table().equals(second.ranked.to_table())


def test_a_run_can_stop_early(changing: Collection, tmp_path: Path) -> None:
    config = changing.config(tmp_path / "lake")
    stopped = nightrank.run(config, last="merge", progress=False)
    assert stopped.generation is None and not stopped.published
    assert stopped.stopped_after == "merge" and "merge" in stopped.units
    assert set(stopped.to_dict()) == {"generation", "stopped_after", "files_left_out", "seconds"}
    assert str(stopped) == "stopped after merge as asked; nothing was published"
    assert repr(stopped) == "Result(stopped_after='merge')"
    with pytest.raises(nightrank.NightrankError, match="this run published no results"):
        _ = stopped.ranked
    rest = nightrank.run(config, first="rerank", progress=False)
    assert rest.generation == 1 and rest.units["merge"] == 0
    for options in ({"first": "nowhere"}, {"last": "nowhere"}):
        with pytest.raises(nightrank.NightrankError, match="nowhere: no such stage") as caught:
            nightrank.run(config, **options)  # type: ignore[arg-type]
        assert caught.value.code == "E_USAGE"
    with pytest.raises(nightrank.NightrankError, match="is not complete"):
        nightrank.run({**config, "name": "other"}, first="rank", progress=False)


def test_the_halves_run_apart(changing: Collection, tmp_path: Path) -> None:
    config = changing.config(tmp_path / "lake")
    with pytest.raises(nightrank.NightrankError, match="no index is published") as caught:
        nightrank.rank(config, progress=False)
    assert caught.value.code == "E_EMPTY"
    index = nightrank.reindex(config, progress=False)
    assert index.generation is None and index.index_generation == 1 and index.published
    assert index.work.documents_embedded == 120
    assert str(index).startswith("published index generation 1: 120 added, 0 changed, 0 removed")
    unchanged = nightrank.reindex(config, progress=False)
    assert not unchanged.published and unchanged.index_generation == 1
    ranked = nightrank.rank(config, index_generation=1, progress=False)
    assert ranked.generation == 1 and ranked.work.pairs_scored == 8 * 20
    assert not [stage for stage in ranked.units if "corpus" in stage or "documents" in stage]


def test_nightly_holds_back_what_its_gate_refuses(changing: Collection, tmp_path: Path) -> None:
    config = changing.config(tmp_path / "lake", gate={"max_delete_fraction": 0.1})
    first = nightrank.nightly(config, progress=False)
    assert first.gate is not None and first.gate.passed
    write_jsonl(changing.folder / "corpus.jsonl", changing.documents[40:])
    with pytest.raises(nightrank.NightrankError) as caught:
        nightrank.nightly(config, progress=False)
    error = caught.value
    assert (error.code, error.exit_code) == ("E_GATE", 11)
    [finding] = error.details["gate"]["findings"]
    assert finding["limit"] == "max_delete_fraction" and not finding["passed"]
    forced = nightrank.nightly(config, force_publish="cut on purpose", progress=False)
    assert forced.generation == 2 and forced.work.documents_removed == 40
    assert forced.gate is not None and forced.gate.forced == "cut on purpose"
    assert [f.limit for f in forced.gate.findings if not f.passed] == ["max_delete_fraction"]
    assert "published against the gate: cut on purpose" in str(forced)


def test_nightly_ends_by_the_schedule_that_began_it(changing: Collection, tmp_path: Path) -> None:
    now = datetime.datetime.now().astimezone()
    until = f"{now - datetime.timedelta(minutes=1):%H:%M}"
    config = changing.config(tmp_path / "lake", budget={"until": until})
    with pytest.raises(nightrank.NightrankError) as caught:
        nightrank.nightly(config, began=now - datetime.timedelta(hours=1), progress=False)
    assert caught.value.code == "E_BUDGET"


def test_a_part_that_the_budget_publishes_is_a_result_with_its_reason(
    changing: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget: dict[str, Any] = {"usd": 1.0, "usd_per_hour": 1e-3, "rerank_first": [5]}
    budget["on_budget"] = "publish_depth"
    root = tmp_path / "lake"
    config = changing.config(root, budget=budget)
    done = "rerank-*/manifest.json"
    monkeypatch.setattr(Meter, "reason", lambda meter: "late" if any(root.rglob(done)) else "")
    result = nightrank.run(config, progress=False)
    assert result.generation == 1 and result.ranked.count_rows() == 40
    assert result.cut_short is not None and result.cut_short.code == "E_BUDGET"
    assert "published at a depth of 5" in result.cut_short.what
    assert f"unfinished: {result.unfinished}" in str(result)
    # The next run scores what is left.
    monkeypatch.undo()
    whole = nightrank.run(config, progress=False)
    assert whole.generation == 2 and whole.cut_short is None and whole.unfinished == ""


def test_the_status_of_a_lake_is_read(changing: Collection, tmp_path: Path) -> None:
    config = changing.config(tmp_path / "lake")
    empty = nightrank.status(config)
    assert (empty.generation, empty.runs, empty.unfinished) == (None, None, ())
    assert empty.next_verb == "run"
    nightrank.run(config, last="changes", progress=False)
    begun = nightrank.status(config)
    [unfinished] = begun.unfinished
    ranked = [stage for name, stage in unfinished.stages.items() if name.startswith("rank-")]
    assert unfinished.is_ready and all(stage.complete for stage in ranked) and ranked
    assert unfinished.runs.count == 1 and begun.generation is None and begun.index_generation == 1
    nightrank.run(config, progress=False)
    done = nightrank.status(config)
    assert (done.generation, done.unfinished, done.next_verb) == (1, (), "results")
    assert done.runs is not None and done.runs.count == 2 and done.runs.lost == {}


def test_files_of_a_published_table_are_listed(published: Published) -> None:
    listed = nightrank.published(published.config)
    assert listed.files == published.result.files and listed.rows == 60
    assert listed.duckdb_view().startswith("CREATE OR REPLACE VIEW ranked AS SELECT * FROM ")
    assert nightrank.published(published.config, table="evaluation").rows == 12 * 3 * 3
    with pytest.raises(nightrank.NightrankError, match="did you mean 'ranked'"):
        nightrank.published(published.config, table="rankd")
