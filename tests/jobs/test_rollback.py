"""A rollback holds nights back until it is ended; nights are compared with what readers see."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nightrank.cli.app import app
from nightrank.cli.exporter import Published
from nightrank.cli.terminal import guarded
from nightrank.cli.verify import verify
from nightrank.errors import NightrankError
from nightrank.generations import retention, rollbacks
from nightrank.generations.results import open_lake
from nightrank.stages import removals
from nightrank.storage.log import Log
from nightrank.storage.store import Store
from tests.support.collection import Collection, write_jsonl
from tests.support.lake import days_later, execute, opened, run, table

Config = Callable[..., str]
Called = Callable[..., tuple[str, str]]


@pytest.fixture
def lake(tmp_path: Path) -> tuple[Collection, Path]:
    return Collection(tmp_path / "in", documents=200, queries=8), tmp_path / "lake"


@pytest.fixture
def called(capsys: pytest.CaptureFixture[str]) -> Called:
    def call(*arguments: str, code: int = 0) -> tuple[str, str]:
        capsys.readouterr()
        assert guarded(lambda **_: app(list(arguments))) == code
        found = capsys.readouterr()
        return found.out, found.err

    return call


def keep(made: Collection, first: int, last: int = 200) -> None:
    write_jsonl(made.folder / "corpus.jsonl", made.documents[first:last])


def config_of(lake: tuple[Collection, Path], write: Config, **sections: Any) -> str:
    gate = {"max_delete_fraction": 0.1, "max_measure_drop": 1, "min_overlap": 0}
    gate |= {"max_lost_queries": 1, **sections.pop("gate", {})}
    return write(lake[0].config(lake[1], gate=gate, **sections))


def metrics(root: Path) -> dict[str, float]:
    """What the exporter says of the results."""
    families = Published(open_lake(str(root), "tiny"), "tiny").collect()
    samples = [sample for family in families for sample in family.samples]
    return {s.name: s.value for s in samples if s.labels.get("log", "results") == "results"}


def log_of(root: Path) -> Log:
    return Log(open_lake(str(root), "tiny"), "results")


def test_nothing_is_published_over_a_rollback_until_it_is_ended(
    lake: tuple[Collection, Path], write_config: Config, called: Called
) -> None:
    made, root = lake
    config = config_of(lake, write_config)
    called("nightly", config)
    before = table(root)
    keep(made, 5)
    called("nightly", config)
    assert metrics(root)["nightrank_rollback_in_force"] == 0
    called("rollback", config, "--to", "1", "--reason", "a shop was missing")
    told = metrics(root)
    assert told["nightrank_rollback_in_force"] == 1 and told["nightrank_generation"] == 3
    files = sorted(root.rglob("*"))
    for verb in ("nightly", "run", "rank"):
        _, err = called(verb, config, code=11)
        assert "generation 2 was rolled back to generation 1 at 20" in err
        assert "UTC: a shop was missing" in err and "nightrank resume CONFIG" in err
    # Refused before anything was listed, stored or computed.
    assert [p for p in sorted(root.rglob("*")) if p not in files and "_probe" not in p.parts] == []
    called("run", config, "--to", "merge")  # Publishes nothing.
    called("reindex", config)  # Readers do not see the index.
    assert log_of(root).last() == 3 and table(root).equals(before)
    called("resume", config, "--reason", "the shop is back")
    told = metrics(root)
    assert told["nightrank_rollback_in_force"] == 0 and told["nightrank_generation"] == 3
    out, _ = called("nightly", config)
    assert "published generation 5" in out and not table(root).equals(before)
    verify(config)
    kinds = [line["kind"] for line in json.loads(called("history", config, "--json")[0])]
    assert kinds == ["publish", "publish", "rollback", "resume", "publish"]
    assert "the shop is back" in called("history", config)[0]


def test_status_and_history_say_what_is_rolled_back_and_what_ends_it(
    lake: tuple[Collection, Path], write_config: Config, called: Called
) -> None:
    config = config_of(lake, write_config)
    called("nightly", config)
    called("nightly", config, "--set", "results.keep=3")
    called("rollback", config, "--to", "1", "--reason", "three are too few")
    sets = ["--set", "results.keep=3"]
    text = called("status", config, *sets)[0]
    assert "generation 2 was rolled back to generation 1 at" in text
    assert "three are too few" in text and "nightly" not in text
    resume = f"nightrank resume {config} --set results.keep=3"
    assert text.splitlines()[-1] == f"next: {resume}"
    plain = json.loads(called("status", config, "--json")[0])
    assert plain["rollback"]["rolled_back_from"] == 2
    assert plain["rollback"]["reason"] == "three are too few"
    lines = json.loads(called("history", config, "--json")[0])
    assert [line["in_force"] for line in lines] == [False, False, True]
    assert lines[2]["rolled_back_to"] == 1
    assert f"paused until: {resume}" in called("history", config, *sets)[0]
    called("resume", config)
    assert json.loads(called("status", config, "--json")[0])["rollback"] is None
    assert "no rollback is in force" in called("resume", config)[0]
    assert (
        "number 4 of results is no generation"
        in called("results", config, "--generation", "4", code=4)[1]
    )


def test_a_forced_night_ends_a_rollback(
    lake: tuple[Collection, Path], write_config: Config, called: Called
) -> None:
    made, root = lake
    config = config_of(lake, write_config)
    called("nightly", config)
    keep(made, 5)
    called("nightly", config)
    called("rollback", config, "--to", "1", "--reason", "in doubt")
    called("nightly", config, "--force-publish", "it was right")
    assert log_of(root).current().body["gate"]["forced"] == "it was right"
    keep(made, 6)
    called("nightly", config)
    called("rollback", config, "--to", "4", "--reason", "in doubt again")
    # What is asked for is what the rollback shows: nothing to publish, but the hold ends.
    keep(made, 5)
    called("nightly", config, code=11)
    called("nightly", config, "--force-publish", "as it is")
    assert log_of(root).in_force() is None and log_of(root).read(7).body["reason"] == "as it is"


def test_a_reason_is_asked_for_where_somebody_can_answer(
    lake: tuple[Collection, Path],
    write_config: Config,
    called: Called,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of(lake, write_config)
    called("nightly", config)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("prices are wrong\n"))
    called("rollback", config, "--to", "1")
    monkeypatch.setattr(sys, "stdin", Terminal("\n"))
    assert "a rollback needs a reason" in called("rollback", config, "--to", "1", code=2)[1]
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert "no --reason" in called("rollback", config, "--to", "1")[1]
    assert called("rollback", config, "--to", "1", "--reason", " ", code=2)
    reasons = [line.get("reason") for line in json.loads(called("history", config, "--json")[0])]
    assert reasons == [None, "prices are wrong", "no reason given"]


def test_a_run_in_progress_never_publishes_over_a_rollback(
    lake: tuple[Collection, Path], write_config: Config, called: Called
) -> None:
    """Planned at the very number that the rollback was decided at, forced or not."""
    made, root = lake
    config = config_of(lake, write_config)
    run(config)
    keep(made, 5)
    run(config)
    keep(made, 6)
    for number, forced in enumerate(("", "meant")):
        with opened(config, force_publish=forced) as job:
            execute(job, last="rank")
            rollbacks.roll_back(job.store, "1", "wrong")
            with pytest.raises(NightrankError) as caught:
                execute(job)
            assert caught.value.code == ("E_STALE" if forced else "E_GATE")
            called("resume", config)
            with pytest.raises(NightrankError, match="E_STALE"):
                execute(job)
        assert log_of(root).last() == 4 + 2 * number
    assert run(config)["generation"] == 7
    verify(config)


def test_ending_a_rollback_never_ends_another_one(tmp_path: Path) -> None:
    """One that came between the look and the entry is somebody else's, for another reason."""
    store = Store(str(tmp_path / "lake"))
    log = Log(store, "results")
    log.append({"kind": "publish", "plan_id": "a"}, 0)

    def hold(number: int) -> None:
        body = {"kind": "rollback", "rolled_back_from": 1, "rolled_back_to": 1, "reason": "x"}
        assert log.append(body, None, over_rollback=True).generation == number

    class Overtaken(Store):
        times = 1

        def put_if_absent(self, key: str, data: bytes) -> bool:
            if self.times:
                self.times -= 1
                meanwhile()
            return super().put_if_absent(key, data)

    hold(2)
    meanwhile: Callable[[], Any] = lambda: hold(3)  # noqa: E731
    with pytest.raises(NightrankError, match="E_CONFLICT.*generation 3"):
        rollbacks.resume(Overtaken(store.url))
    # A collection in between takes the number and changes nothing.
    meanwhile = lambda: log.claim(4, {"kind": "condemn", "condemned": []})  # noqa: E731
    ended = rollbacks.resume(Overtaken(store.url), "seen")
    assert ended and ended.generation == 3 and log.read(5).body["resumes"] == 3
    assert log.in_force() is None and rollbacks.resume(store) is None
    assert log.current().generation == 3


def test_collections_keep_what_was_rolled_back_and_count_it_once(
    lake: tuple[Collection, Path],
    write_config: Config,
    called: Called,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, root = lake
    config = config_of(lake, write_config)
    for first in range(4):
        keep(made, first)
        called("nightly", config)
    tables = {number: table(root, generation=number) for number in (2, 3, 4)}
    for _ in range(2):
        called("rollback", config, "--to", "3", "--reason", "drill")
        called("resume", config)
    called("rollback", config, "--to", "2", "--reason", "wrong since 3")
    with days_later(monkeypatch, 8):
        retention.collect(open_lake(str(root), "tiny"), retain=3, min_age_days=7)
    for number, expected in tables.items():
        assert table(root, generation=number).equals(expected)
    called("results", config, "--generation", "1", code=7)
    with days_later(monkeypatch, 20):
        retention.collect(open_lake(str(root), "tiny"), retain=1, min_age_days=7)
    # What was rolled back (entry 7 shows generation 3) is looked at while the rollback is in force.
    assert table(root, generation=3).equals(tables[3])
    assert table(root).equals(tables[2])
    called("nightly", config, code=11)
    called("resume", config)
    called("nightly", config)
    assert table(root).equals(tables[4])
    verify(config)


@pytest.mark.parametrize("rows_per_task", [40, 4_000_000])
def test_a_night_that_was_held_back_moves_no_baseline(
    lake: tuple[Collection, Path],
    write_config: Config,
    called: Called,
    monkeypatch: pytest.MonkeyPatch,
    rows_per_task: int,
) -> None:
    """Each takes away less than is allowed; the index took them in, readers did not."""
    made, root = lake
    monkeypatch.setattr(removals, "ROWS_PER_TASK", rows_per_task)
    config = config_of(lake, write_config)
    called("nightly", config)
    hold = ["--set", "gate.min_overlap=1", "--set", "nightly.max_segments=1"]
    for first in (12, 18):
        # New texts too: lists change, segments come and are merged, and the night is held back.
        new = [{**d, "_id": f"{d['_id']}-{first}"} for d in made.documents[:first]]
        write_jsonl(made.folder / "corpus.jsonl", made.documents[first:] + new)
        assert "min_overlap" in called("nightly", config, *hold, code=11)[1]
    index = Log(open_lake(str(root), "tiny"), "index")
    assert index.last() > 3 and any(e.body["compacted"] for e in index.published())
    keep(made, 24)
    err = called("nightly", config, code=11)[1]
    assert "max_delete_fraction: 0.12, allowed 0.1 (24 of 200 documents" in err
    assert "e.g. d00" in err
    assert log_of(root).last() == 1
    keep(made, 20)
    called("nightly", config)
    keep(made, 38)  # 18 of 180, and not 38 of 200.
    called("nightly", config)


@pytest.mark.parametrize("verb", ["reindex", "nightly"])
def test_the_index_alone_moves_no_baseline(
    lake: tuple[Collection, Path], write_config: Config, called: Called, verb: str
) -> None:
    made, root = lake
    config = config_of(lake, write_config)
    called("reindex", config)
    keep(made, 30)
    assert "30 of 200 documents" in called(verb, config, code=11)[1]  # Before any results too.
    keep(made, 0)
    called("rank", config)
    keep(made, 15)
    called("reindex", config)
    assert "nothing to do" in called("reindex", config)[0]
    keep(made, 30)
    assert "30 of 200 documents" in called(verb, config, code=11)[1]
    called("reindex", config, "--force-publish", "the index may")
    assert "nothing to do" in called("reindex", config)[0]
    keep(made, 31)
    assert "31 of 200 documents" in called(verb, config, code=11)[1]
    # Ranking alone shows readers the index: from then on that is what counts.
    called("rank", config)
    called(verb, config)


def test_an_older_index_that_was_ranked_is_what_counts(
    lake: tuple[Collection, Path], write_config: Config, called: Called
) -> None:
    made, _ = lake
    config = config_of(lake, write_config)
    called("nightly", config)
    keep(made, 30)
    called("nightly", config, "--force-publish", "sold")
    called("nightly", config)  # After a forced night the next one is compared with that.
    called("rank", config, "--index-generation", "1")
    keep(made, 31)
    assert "31 of 200 documents" in called("nightly", config, code=11)[1]


def test_a_corpus_that_is_read_otherwise_is_compared_too(
    lake: tuple[Collection, Path], write_config: Config, called: Called
) -> None:
    """Other columns make other segments: nothing of the index can be compared by content."""
    made, _ = lake
    called("nightly", config_of(lake, write_config))
    keep(made, 40)
    corpus = {"path": str(made.folder / "corpus.jsonl"), "attributes": {"year": "int64"}}
    config = config_of(lake, write_config, corpus=corpus)
    assert "40 of 200 documents" in called("nightly", config, code=11)[1]


def test_what_a_feed_removed_and_brought_back_is_no_removal(
    lake: tuple[Collection, Path], write_config: Config, called: Called
) -> None:
    made, root = lake

    def feed(op: str, chosen: slice, sequence: int) -> None:
        rows = [{**d, "op": op, "sequence": sequence} for d in made.documents[chosen]]
        write_jsonl(made.folder / "feed.jsonl", rows)

    corpus = {"path": str(made.folder / "feed.jsonl"), "feed": True}
    config = config_of(lake, write_config, corpus=corpus)
    feed("upsert", slice(None), 1)
    called("nightly", config)
    feed("delete", slice(0, 30), 2)
    assert "30 of 200 documents" in called("nightly", config, code=11)[1]
    feed("delete", slice(0, 15), 3)
    called("reindex", config)
    feed("delete", slice(15, 30), 4)
    assert "30 of 200 documents" in called("nightly", config, code=11)[1]
    called("reindex", config, "--force-publish", "the index may")
    feed("upsert", slice(0, 20), 5)
    called("nightly", config)
    assert log_of(root).last() == 2


def test_published_lists_without_a_measure_are_measured_for_the_gate(
    lake: tuple[Collection, Path], write_config: Config, called: Called
) -> None:
    """Other judgements than then, or none then: still two generations by the same judgements."""
    made, root = lake
    limits = {"max_measure_drop": 0.02, "max_delete_fraction": 1}
    called("run", config_of(lake, write_config, gate=limits), "--to", "publish")
    assert not list(root.rglob("evaluate-*"))
    judged = {document_id for _, document_id, _ in made.qrels[:4]}
    write_jsonl(made.folder / "corpus.jsonl", [d for d in made.documents if d["_id"] not in judged])
    err = called("nightly", config_of(lake, write_config, gate=limits), code=11)[1]
    assert "max_measure_drop" in err and "e.g. q000" in err and "(1.0000 -> 0.0000)" in err
    lines = [f"no-{q}\t{d}\t{r}" for q, d, r in made.qrels]
    (made.folder / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]))
    called("nightly", config_of(lake, write_config, gate=limits))


@pytest.mark.parametrize("last", ["ingest", "search"])
def test_ranking_alone_never_continues_a_run_that_was_to_build_the_index_first(
    lake: tuple[Collection, Path], write_config: Config, called: Called, last: str
) -> None:
    """Same corpus, same plan, but the folder was begun upon an index without these documents."""
    made, root = lake
    config = config_of(lake, write_config)
    keep(made, 0, 100)
    if last == "search":
        called("nightly", config)
    keep(made, 0)
    called("run", config, "--to", last)
    called("reindex", config)
    done = json.loads(called("rank", config, "--json")[0])
    assert done["documents"]["indexed"] == 200
    verify(config)
    run(write_config(made.config(root.parent / "whole"), "whole.yaml"))
    assert table(root).equals(table(root.parent / "whole"))
    assert not json.loads(called("nightly", config, "--json")[0])["published"]


def test_a_night_is_compared_with_what_was_published_while_it_ran(
    lake: tuple[Collection, Path], write_config: Config, called: Called
) -> None:
    made, root = lake
    config = config_of(lake, write_config)
    keep(made, 0, 150)
    called("nightly", config)
    keep(made, 10, 150)
    with opened(config) as job:
        job.gate = True
        execute(job, last="rank")
        keep(made, 0)
        called("nightly", config)  # Planned after the same generation: neither is stale.
        with pytest.raises(NightrankError, match="max_delete_fraction.*60 of 200 documents"):
            execute(job)
    assert log_of(root).last() == 2


def test_rejected_rows_are_shown(
    lake: tuple[Collection, Path], write_config: Config, called: Called
) -> None:
    made, _ = lake
    write_jsonl(made.folder / "corpus.jsonl", [*made.documents[:100], {"_id": "bad", "text": ""}])
    corpus = {"path": str(made.folder / "corpus.jsonl"), "reject_budget": 0.5}
    config = config_of(lake, write_config, corpus=corpus, gate={"max_reject_rate": 0.001})
    err = called("nightly", config, code=11)[1]
    assert "max_reject_rate" in err and "(1 of 109 rows, e.g. " in err
    assert "corpus.jsonl, row 100: " in err
