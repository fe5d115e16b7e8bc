"""Killed anywhere, the same command ends in the same rows and redoes only what was in flight."""

from __future__ import annotations

import os
import shutil
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
from pipelines.storage.log import Log
from tests.conftest import Collection, nightrank
from tests.jobs.lake import digests, run, table
from tests.jobs.test_nights import World

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = {"document_shard_rows": 60, "query_shard_rows": 15}
# Runs a config and kills itself at the n-th write or create of the store: before it, or just after.
CRASHER = """
import os, signal, sys
from pipelines.storage.store import Store
from tests.jobs.lake import run
left = [int(sys.argv[2])]
def dying(real):
    def call(self, *args, **kwargs):
        left[0] -= 1
        if left[0] == 0 and sys.argv[3] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(self, *args, **kwargs)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call
Store.write, Store.put_if_absent = dying(Store.write), dying(Store.put_if_absent)
run(sys.argv[1])
"""


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


def test_every_crash_point_recovers_to_the_same_bytes(
    collection: Collection,
    tmp_path: Path,
    write_config: Callable[..., str],
    undisturbed: dict[str, list[str]],
) -> None:
    """Killed at the 1st, 18th, 35th … operation of the store until a run gets through."""
    crashes = 0
    for number in range(1, 10_000, 17):
        root = tmp_path / f"lake{number}"
        config = write_config(collection.config(root, layout=SMALL), f"{number}.yaml")
        when = "before" if crashes % 2 else "after"
        child = subprocess.run(
            [sys.executable, "-c", CRASHER, config, str(number), when], cwd=REPOSITORY
        )
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL
        crashes += 1
        before = records(root)
        run(config)
        assert digests(root) == undisturbed
        assert before.items() <= records(root).items(), "a committed unit was done again"
    assert crashes >= 8
    verify(config)


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
    plain = collection.config(tmp_path / "lake", layout=SMALL, cluster={"executor": "ray"})
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


def test_a_night_killed_anywhere_ends_in_the_same_bytes(
    tmp_path: Path, write_config: Callable[..., str]
) -> None:
    """The third night, with a merge of segments in it, killed at every 29th operation."""
    world = World(tmp_path, 41, documents=200, queries=16)
    layout = {"document_shard_rows": 60, "query_shard_rows": 8}
    lake, merging = tmp_path / "lake", {"max_segments": 2}
    plain = world.config(lake, layout=layout, nightly=merging)
    config = write_config(plain, "lake.yaml")
    for number in range(3):
        if number:
            world.documents[f"new-{number}"] = "river bank loan"
            world.documents.pop(sorted(world.documents)[number])
        world.write()
        if number < 2:
            run(config)
    whole = tmp_path / "whole"
    shutil.copytree(lake, whole)
    run(write_config({**plain, "root": str(whole)}, "whole.yaml"))
    crashes = 0
    for number in range(1, 10_000, 29):
        root = tmp_path / f"lake{number}"
        shutil.copytree(lake, root)
        again = write_config({**plain, "root": str(root)}, f"{number}.yaml")
        when = "before" if crashes % 2 else "after"
        child = subprocess.run(
            [sys.executable, "-c", CRASHER, again, str(number), when], cwd=REPOSITORY
        )
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL
        crashes += 1
        run(again)
        assert digests(root) == digests(whole), f"operation {number}, {when}"
        verify(again)
    assert crashes >= 5
    entries = Log(open_lake(str(whole), "tiny"), "index").published()
    assert entries[-1].body["compacted"]
