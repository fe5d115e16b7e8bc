"""Stopped, doubled or damaged, a run ends in the same rows and redoes only what was in flight."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.verify import verify
from pipelines.errors import NightrankError
from pipelines.results import open_lake
from pipelines.storage.dataset import Dataset
from tests.conftest import ON_RAY, Collection, nightrank
from tests.jobs.lake import digests, run, table

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = {"document_shard_rows": 60, "query_shard_rows": 15}


def records(root: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in root.rglob("_done/*.json")}


def start(config: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "run", config],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def wait_for_records(root: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while len(list(root.rglob("_done/*.json"))) < count:
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() < deadline, "the run made no progress"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def undisturbed(
    collection: Collection, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[str]]:
    import json

    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "c.yaml").write_text(json.dumps(collection.config(folder / "lake", layout=SMALL)))
    run(str(folder / "c.yaml"))
    return digests(folder / "lake")


def test_an_old_generation_stays_readable_when_its_successor_is_killed(
    collection: Collection, tmp_path: Path, write_config: Callable[..., str]
) -> None:
    config = write_config(collection.config(tmp_path / "lake", layout=SMALL))
    run(config)
    before = table(tmp_path / "lake")
    process = start(
        write_config(collection.config(tmp_path / "lake", rerank={"depth": 7}, layout=SMALL), "b")
    )
    wait_for_records(tmp_path / "lake", len(records(tmp_path / "lake")) + 3, process)
    process.kill()
    process.wait()
    assert table(tmp_path / "lake").equals(before)
    verify(config)


@pytest.mark.ray
def test_a_killed_ray_driver_resumes(
    collection: Collection,
    tmp_path: Path,
    write_config: Callable[..., str],
    undisturbed: dict[str, list[str]],
) -> None:
    plain = collection.config(tmp_path / "lake", layout=SMALL, cluster=ON_RAY)
    config = write_config(plain)
    process = start(config)
    wait_for_records(tmp_path / "lake", 12, process)
    process.kill()
    process.wait()
    before = records(tmp_path / "lake")
    done = nightrank("run", config)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "lake") == undisturbed
    assert before.items() <= records(tmp_path / "lake").items()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_cleanly_and_the_same_command_resumes(
    collection: Collection,
    tmp_path: Path,
    write_config: Callable[..., str],
    undisturbed: dict[str, list[str]],
    number: signal.Signals,
    code: int,
) -> None:
    config = write_config(collection.config(tmp_path / "lake", layout=SMALL))
    process = start(config)
    wait_for_records(tmp_path / "lake", 5, process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert b"Traceback" not in stderr and b"the same command resumes" in stderr
    run(config)
    assert digests(tmp_path / "lake") == undisturbed


def test_two_runs_of_one_plan_publish_once(
    collection: Collection, tmp_path: Path, write_config: Callable[..., str]
) -> None:
    config = write_config(collection.config(tmp_path / "lake", layout=SMALL))
    twins = [start(config), start(config)]
    assert [twin.wait(120) for twin in twins] == [0, 0]
    store = open_lake(str(tmp_path / "lake"), "tiny")
    assert len(store.files("results/_log")) == 1
    verify(config)


def test_a_short_file_is_made_again_and_a_flipped_bit_is_refused(
    collection: Collection, tmp_path: Path, write_config: Callable[..., str]
) -> None:
    config = write_config(collection.config(tmp_path / "lake", layout=SMALL))
    store = open_lake(str(tmp_path / "lake"), "tiny")
    from jobs.run import execute
    from jobs.terminal import open_job

    with open_job(config, [], quiet=True) as job:
        execute(job, last="merge")
        folder = job.plan.folder
    os.remove(store.path(f"{folder}/candidates/manifest.json"))
    first, second, *_ = Dataset(store, f"{folder}/candidates").records().values()
    short = Path(store.path(first.files["candidates"].key))
    short.write_bytes(short.read_bytes()[:-10])
    flipped = Path(store.path(second.files["candidates"].key))
    good = bytearray(flipped.read_bytes())
    good[len(good) // 2] ^= 4
    flipped.write_bytes(good)
    with pytest.raises(NightrankError) as caught:
        run(config)
    assert caught.value.exit_code == 7 and flipped.name in str(caught.value)
    again = Dataset(store, f"{folder}/candidates").records()
    assert again[first.shard].attempt == 1
