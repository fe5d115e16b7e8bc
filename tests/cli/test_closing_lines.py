"""`--json` ends with its one line whatever happens; what is advised can be typed as it is."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nightrank.api import status
from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from nightrank.errors import NightrankError
from nightrank.runtime.budget import Meter
from tests.support.collection import Collection, write_jsonl

Config = Callable[..., str]
Ended = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture
def ended(capsys: pytest.CaptureFixture[str]) -> Ended:
    def call(*arguments: str, code: int) -> tuple[dict[str, Any], str]:
        """The one line on standard output, and standard error."""
        capsys.readouterr()
        assert guarded(lambda **_: app([*arguments, "--json"])) == code
        found = capsys.readouterr()
        assert found.out.count("\n") == 1, found.out
        return json.loads(found.out), found.err

    return call


@pytest.fixture
def small(tmp_path: Path) -> Collection:
    return Collection(tmp_path / "in", documents=200, queries=8)


def test_a_night_that_is_held_back_says_why_to_machines(
    small: Collection, tmp_path: Path, write_config: Config, ended: Ended
) -> None:
    gate = {"max_delete_fraction": 0.1}
    config = write_config(small.config(tmp_path / "lake", gate=gate))
    ended("nightly", config, code=0)
    write_jsonl(small.folder / "corpus.jsonl", small.documents[50:])
    for verb in ("nightly", "reindex"):
        plain, err = ended(verb, config, code=11)
        assert plain["code"] == "E_GATE" and plain["exit_code"] == 11
        assert plain["what"] in err and plain["where"] == "gate" and "force-publish" in plain["do"]
        [finding] = plain["gate"]["findings"]
        assert not plain["gate"]["passed"] and finding["limit"] == "max_delete_fraction"
        assert (finding["found"], finding["allowed"]) == (0.25, 0.1)
        assert finding["examples"] == [{"doc_id": f"d0000{i}"} for i in range(3)]
    # Every limit with its examples: what was judged is gone, half of the queries are withdrawn.
    judged = {document for _, document, _ in small.qrels[:4]}
    others = [{**d, "text": "wing"} if d["_id"] in judged else d for d in small.documents]
    write_jsonl(small.folder / "corpus.jsonl", others)
    write_jsonl(small.folder / "queries.jsonl", small.queries[:4])
    strict = ["--set", "gate.min_overlap=1"]
    plain, err = ended("nightly", config, *strict, code=11)
    found = {finding["limit"]: finding for finding in plain["gate"]["findings"]}
    assert found["max_delete_fraction"]["passed"]
    withdrawn = found["max_withdrawn_queries"]["examples"]
    assert [example["query_id"] for example in withdrawn] == ["q0004", "q0005", "q0006"]
    dropped = found["max_measure_drop"]["examples"]
    assert dropped and all(e["now"] < e["before"] <= 1 for e in dropped)
    assert [e["before"] - e["now"] for e in dropped] == sorted(
        (e["before"] - e["now"] for e in dropped), reverse=True
    )
    assert f"e.g. {dropped[0]['query_id']} ({dropped[0]['before']:.4f} -> " in err
    assert {"query_id", "overlap"} == set(found["min_overlap"]["examples"][0])


def test_a_rollback_in_force_is_in_the_line(
    small: Collection, tmp_path: Path, write_config: Config, ended: Ended
) -> None:
    config = write_config(small.config(tmp_path / "lake"))
    ended("run", config, code=0)
    made, _ = ended("rollback", config, "--to", "1", "--reason", "prices", code=0)
    assert made["generation"] == 2 and made["next"] == f"nightrank resume {config}"
    plain, _ = ended("nightly", config, code=11)
    assert plain["rollback"]["generation"] == 2 and plain["rollback"]["reason"] == "prices"
    assert ended("resume", config, code=0)[0]["resumes"] == 2
    assert ended("resume", config, code=0)[0]["resumes"] is None


@pytest.mark.parametrize(
    "verb",
    [
        "run",
        "nightly",
        "reindex",
        "rank",
        "plan",
        "status",
        "history",
        "results",
        "verify",
        "evaluate",
        "gc",
    ],
)
def test_every_verb_ends_with_a_line(
    verb: str, small: Collection, tmp_path: Path, write_config: Config, ended: Ended
) -> None:
    missing = str(tmp_path / "missing.yaml")
    plain, err = ended(verb, missing, code=2)
    assert set(plain) == {"code", "exit_code", "what", "where", "do"}
    assert plain["code"] == "E_CONFIG" and plain["exit_code"] == 2 and missing in plain["where"]
    assert plain["what"] in err and "Traceback" not in err
    # Typer's own: an option that is not there, an argument too many.
    for wrong in ("--no-such", "another"):
        plain, err = ended(verb, missing, wrong, code=2)
        assert plain["code"] == "E_USAGE" and plain["exit_code"] == 2 and plain["what"]


def test_so_do_those_with_other_options(
    small: Collection, tmp_path: Path, write_config: Config, ended: Ended
) -> None:
    plain, _ = ended(code=2)  # No verb.
    assert plain["code"] == "E_USAGE"
    plain, _ = ended("no-such-verb", code=2)
    assert "no-such-verb" in plain["what"]
    config = write_config(small.config(tmp_path / "lake"))
    for verb, more in (("rollback", ["--to", "1"]), ("resume", []), ("export", ["--hive", "x"])):
        plain, _ = ended(verb, config, *more, code=4)
        assert plain["code"] == "E_EMPTY"
    ended("run", config, code=0)
    done, _ = ended("export", config, "--trec", str(tmp_path / "run.txt"), code=0)
    assert done == {"generation": 1, "rows": 40, "file": str(tmp_path / "run.txt")}
    assert list(ended("export", config, "--hive", str(tmp_path / "hive"), code=0)[0]["written"])
    plain, _ = ended("run", config, "--from", "nowhere", code=2)
    assert plain["what"] == "--from nowhere: no such stage"


def test_doctor_ends_with_a_line_that_is_a_finding_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("name: [")
    assert guarded(lambda **_: app(["doctor", str(config), "--json"])) == 3
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all({"check", "state", "found", "do"} <= set(line) for line in lines)
    assert lines[-1]["code"] == "E_UNFIT" and lines[-1]["exit_code"] == 3
    assert "config" in lines[-1]["what"] and lines[-1]["state"] == "end"


def test_out_of_budget_there_is_one_line_with_both_the_counts_and_the_reason(
    small: Collection,
    tmp_path: Path,
    write_config: Config,
    ended: Ended,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budget = {"usd": 0.0, "usd_per_hour": 9.0}
    config = write_config(small.config(tmp_path / "lake", budget=budget))
    plain, _ = ended("nightly", config, code=10)
    assert plain["code"] == "E_BUDGET" and "generation" not in plain
    budget = {"usd": 1.0, "usd_per_hour": 1e-3, "rerank_first": [5]}
    budget["on_budget"] = "publish_depth"
    root = tmp_path / "another"
    config = write_config(small.config(root, budget=budget))
    done = "rerank-*/manifest.json"
    monkeypatch.setattr(Meter, "reason", lambda meter: "late" if any(root.rglob(done)) else "")
    plain, _ = ended("nightly", config, code=10)
    assert plain["code"] == "E_BUDGET" and plain["exit_code"] == 10
    assert plain["generation"] == 1 and "published at a depth of 5" in plain["what"]


def test_secrets_and_bugs_are_told_to_machines_as_to_people(
    small: Collection,
    tmp_path: Path,
    write_config: Config,
    ended: Ended,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THE_SECRET", "hunter2hunter2")
    config = write_config(small.config(tmp_path / "lake"))

    def refuse(*_: Any) -> None:
        where = "s3://user:pass@host/lake"
        details = {"gate": {"findings": [{"examples": [{"query_id": "hunter2hunter2"}]}]}}
        raise NightrankError("E_GATE", "hunter2hunter2 is\nwrong\x1b[2J", where, "", details)

    monkeypatch.setattr(status, "open_lake", refuse)
    plain, err = ended("status", config, code=11)
    assert "hunter2" not in json.dumps(plain) + err and "pass" not in plain["where"]
    assert plain["what"] == "*** is wrong\\x1b[2J" and plain["what"] in err

    def fall(*_: Any) -> None:
        raise RuntimeError("the text of a document")

    monkeypatch.setattr(status, "open_lake", fall)
    plain, err = ended("status", config, code=70)
    assert plain["code"] == "E_BUG" and plain["what"].startswith("RuntimeError at ")
    assert "a document" not in json.dumps(plain) + err and plain["do"].startswith("details in ")


def test_without_json_standard_output_stays_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "missing.yaml")
    guarded(lambda **_: app(["status", missing, "--json"]))
    capsys.readouterr()
    # After `--` it is another program's option.
    for arguments in (["status", missing], ["status", "--no"], ["submit", missing, "--", "--json"]):
        assert guarded(lambda **_: app(arguments)) == 2  # noqa: B023
        assert capsys.readouterr().out == ""


def test_what_is_advised_can_be_typed_as_it_is(
    small: Collection,
    tmp_path: Path,
    write_config: Config,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "my data's #2"
    folder.mkdir()
    config = write_config(small.config(tmp_path / "lake"), str(folder / "c d.yaml"))
    root = tmp_path / "an other"
    sets = ["--set", f"root={root}", "--set", "results.keep=3"]

    def advised(*arguments: str, starts: str) -> list[str]:
        capsys.readouterr()
        assert guarded(lambda **_: app([*arguments, *sets])) == 0
        lines = capsys.readouterr().out.splitlines()
        [line] = [line for line in lines if line.startswith(starts)]
        program, *typed = shlex.split(line.removeprefix(starts))
        assert program == "nightrank" and typed[1] == config and typed[-4:] == sets
        return typed

    def typed(arguments: list[str]) -> str:
        capsys.readouterr()
        assert guarded(lambda **_: app(arguments)) == 0
        return capsys.readouterr().out

    typed(["run", config, "--to", "rank", *sets])
    assert "published generation 1" in typed(advised("status", config, starts="next: "))
    files = typed(advised("status", config, starts="next: "))
    assert str(root) in files
    assert typed(advised("nightly", config, starts="read them: ")).strip().endswith(".parquet")
    ranks = advised("reindex", config, starts="rank against it: ")
    said = typed(ranks)
    assert "already published as generation 1" in said and "\npublished" not in said
    resume = advised(
        "rollback", config, "--to", "1", "--reason", "x", starts="publication is paused until: "
    )
    assert advised("history", config, starts="publication is paused until: ") == resume
    assert advised("status", config, starts="next: ") == resume
    assert "publication resumed" in typed(resume)
