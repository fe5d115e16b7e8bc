"""`nightrank status` names the slowest unit, what was lost, how the last run ended, what next."""

from __future__ import annotations

import json
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from nightrank.errors import NightrankError
from nightrank.generations.results import open_lake
from nightrank.runtime import events
from tests.support.collection import Collection
from tests.support.lake import run

Write = Callable[..., str]
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def status(capsys: pytest.CaptureFixture[str], config: str, *options: str) -> str:
    capsys.readouterr()
    assert guarded(lambda **_: app(["status", config, *options])) == 0
    return capsys.readouterr().out


def test_the_slowest_unit_and_its_node_are_named(
    collection: Collection, tmp_path: Path, write_config: Write, capsys
) -> None:
    config = write_config(collection.config(tmp_path / "lake"))
    run(config)
    plain = json.loads(status(capsys, config, "--json"))
    slowest = plain["runs"]["slowest"]
    assert slowest["node"] == platform.node() and slowest["seconds"] > 0
    text = status(capsys, config)
    where = f"slowest unit: {slowest['stage']}, {slowest['unit']} on {slowest['node']}"
    assert where in text and text.splitlines()[-1] == f"next: nightrank results {config}"
    assert "lost" not in text and text.count("next:") == 1


def test_a_failed_run_is_told_with_its_error_and_the_command_that_helps(
    collection: Collection, tmp_path: Path, write_config: Write, capsys
) -> None:
    config = write_config(collection.config(tmp_path / "lake"))
    run(config, "rerank.depth=3")
    # Known scores are published, and no run makes them anew.
    broken = ["rerank.depth=4"]
    for path in (tmp_path / "lake").rglob("rerank-*/_data/*"):
        path.write_bytes(b"")
    with pytest.raises(NightrankError) as caught:
        run(config, *broken)
    assert caught.value.exit_code == 7
    text = status(capsys, config)
    assert "lost: 1 unit failed" in text and "last run: error[E_CORRUPT]" in text
    assert text.splitlines()[-1] == f"next: nightrank verify {config}"


def test_damage_that_was_mended_is_told(
    collection: Collection, tmp_path: Path, write_config: Write, capsys
) -> None:
    config = write_config(collection.config(tmp_path / "lake"))
    run(config, "rerank.depth=3")
    path = next((tmp_path / "lake").rglob("segments/*/tokenize-*/_data/*"))
    path.write_bytes(b"")
    run(config, "rerank.depth=4")
    assert "file damaged" in status(capsys, config, "--set", "rerank.depth=4")


def test_retries_and_lost_nodes_are_counted_over_all_runs_of_a_plan(
    collection: Collection, tmp_path: Path, write_config: Write, capsys
) -> None:
    config = write_config(collection.config(tmp_path / "lake"))
    entry = run(config)
    store = open_lake(str(tmp_path / "lake"), "tiny")
    (folder,) = {str(Path(p).parents[2]) for p in entry["files"]}
    folder = f"results/{Path(folder).name}"
    for _ in range(2):
        log = events.Events(store)
        log.folder = folder
        with events.recording(log):
            events.emit("run_resumed", verb="nightly")
            events.emit("unit_retried", stage="rerank", unit="part-0", attempt=1, node="node-a")
            events.emit("node_lost", node="node-b")
        log.close()
    text = status(capsys, config)
    assert "lost: 2 units retried, 2 nodes lost (on node-a, node-b)" in text


def test_a_killed_run_is_told_by_the_machine_it_ran_on_and_by_others(
    collection: Collection,
    tmp_path: Path,
    write_config: Write,
    capsys,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = {"document_shard_rows": 60, "query_shard_rows": 15}
    config = write_config(collection.config(tmp_path / "lake", layout=small))
    process = subprocess.Popen(
        [sys.executable, "-m", "nightrank", "nightly", config],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "lake").rglob("_done/*.json"))) < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    text = status(capsys, config)
    assert "slowest unit: " in text and "last run: still running, or killed" in text
    assert text.splitlines()[-1] == f"next: nightrank nightly {config}"
    # Elsewhere what it had stored of its events is known: as nodes of a cluster are gone.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
    text = status(capsys, config)
    assert "last run: still running, or killed" in text
    assert text.splitlines()[-1] == f"next: nightrank nightly {config}"
