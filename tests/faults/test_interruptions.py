"""Stopped, doubled or damaged, a run ends in the same rows and redoes only what was in flight."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

from nightrank.cli.verify import verify
from nightrank.errors import NightrankError
from nightrank.generations.results import open_lake
from nightrank.runtime.events import read_events
from nightrank.storage.dataset import Dataset, FileRef
from nightrank.storage.log import Log
from nightrank.storage.reader import Reader
from tests.support.cluster import ON_RAY
from tests.support.collection import Collection, write_jsonl
from tests.support.lake import digests, execute, opened, run, table
from tests.support.program import nightrank
from tests.support.progress import records, when
from tests.support.proxy import Faults, proxy

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = {"document_shard_rows": 60, "query_shard_rows": 15}
TINY = {"document_shard_rows": 60, "query_shard_rows": 6}


# By the stage that a run was stopped after: what is damaged then.
DAMAGED = (
    ("ingest", "queries/*/ingest-*/_data/*"),
    ("segment", "segments/*/segment-*/_data/*"),
    ("tokenize", "segments/*/tokenize-*/_data/*"),
    ("embed", "segments/*/embed-*/_data/*"),
    ("merge", "results/*/merge-*/_data/*.candidates-*"),
    ("merge", "results/*/merge-*/manifest.json"),
    ("rerank", "results/*/rerank-*/_data/*"),
)


STOPS = (*dict.fromkeys(stage for stage, _ in DAMAGED), "changes")


def start(config: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "nightrank", "run", config, "--json"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def stopped(stdout: bytes) -> tuple[str, int]:
    """What the one line of --json says of the end."""
    [line] = stdout.splitlines()
    plain = json.loads(line)
    return plain["code"], plain["exit_code"]


def wait_for_records(root: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    when(lambda: len(list(root.rglob("_done/*.json"))) >= count, process, 120)


def under(pid: int, generations: int) -> dict[int, str]:
    """The command lines of a process's children, or of theirs."""
    found = {pid: ""}
    for _ in range(generations):
        lists = [Path(f"/proc/{parent}/task/{parent}/children").read_text() for parent in found]
        found = {}
        for child in map(int, " ".join(lists).split()):
            with contextlib.suppress(FileNotFoundError):  # It has ended since.
                found[child] = Path(f"/proc/{child}/cmdline").read_text()
    return found


def stop_after(config: str, stage: str) -> None:
    with opened(config) as job:
        execute(job, last=stage)


@pytest.fixture(scope="module")
def undisturbed(
    collection: Collection, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "c.yaml").write_text(json.dumps(collection.config(folder / "lake", layout=SMALL)))
    run(str(folder / "c.yaml"))
    return digests(folder / "lake")


@pytest.fixture(scope="module")
def stages(small: Collection, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Copies of one lake, by the stage that its run was stopped after; complete by `""`.

    A plan does not depend on where its lake is, so a run continues in a copy of a copy.
    """
    folder = tmp_path_factory.mktemp("stages")
    config, copies = folder / "c.yaml", {}
    config.write_text(json.dumps(small.config(folder / "lake", layout=TINY)))
    for stage in STOPS:
        stop_after(str(config), stage)
        copies[stage] = folder / stage
        shutil.copytree(folder / "lake", copies[stage])
    run(str(config))
    return {**copies, "": folder / "lake"}


@pytest.fixture
def small_config(small: Collection, tmp_path: Path, write_config: Callable[..., str]) -> str:
    """A config of a lake that a test copies first."""
    return write_config(small.config(tmp_path / "lake", layout=TINY))


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
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert b"Traceback" not in stderr and b"the same command resumes" in stderr
    assert stopped(stdout) == (number.name, code)
    run(config)
    assert digests(tmp_path / "lake") == undisturbed


@pytest.mark.ray
@pytest.mark.parametrize(
    ("number", "to_the_child", "records_first", "code"),
    [
        (signal.SIGINT, False, 12, 130),
        (signal.SIGTERM, True, 12, 143),  # As the stop of a Ray job or of a systemd unit sends it.
        (signal.SIGTERM, False, 0, 143),  # As Ray starts.
    ],
)
def test_a_signal_stops_a_run_on_ray_cleanly(
    collection: Collection,
    tmp_path: Path,
    write_config: Callable[..., str],
    number: signal.Signals,
    to_the_child: bool,
    records_first: int,
    code: int,
) -> None:
    config = write_config(collection.config(tmp_path / "lake", layout=SMALL, cluster=ON_RAY))
    process = start(config)
    if records_first:
        wait_for_records(tmp_path / "lake", records_first, process)
    else:
        when(lambda: any("gcs_server" in of for of in under(process.pid, 2).values()), process, 60)
    [child] = under(process.pid, 1)
    os.kill(child if to_the_child else process.pid, number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert stopped(stdout) == (number.name, code)
    assert stderr.splitlines()[-1] == b"nightrank: stopped; the same command resumes"
    assert b"Traceback" not in stderr and b"received at time" not in stderr
    if records_first:
        logs = (tmp_path / "lake").rglob("events-*.jsonl")
        told = [event for log in logs for event in read_events(log.read_bytes())]
        assert [event["exit"] for event in told if event["event"] == "run_failed"] == [code]


def test_two_runs_of_one_plan_publish_once(
    collection: Collection, tmp_path: Path, write_config: Callable[..., str]
) -> None:
    config = write_config(collection.config(tmp_path / "lake", layout=SMALL))
    twins = [start(config), start(config)]
    assert [twin.wait(120) for twin in twins] == [0, 0]
    store = open_lake(str(tmp_path / "lake"), "tiny")
    assert len(store.files("results/_log")) == 1
    verify(config)


def flipped(data: bytes) -> bytes:
    """One bit in the middle turned."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


def flip(path: Path) -> bytes:
    """Damages a file; what it holds then."""
    path.write_bytes(damaged := flipped(path.read_bytes()))
    return damaged


@pytest.mark.parametrize(("stage", "pattern"), DAMAGED)
def test_damaged_work_is_quarantined_and_recomputed(
    stages: dict[str, Path], tmp_path: Path, small_config: str, stage: str, pattern: str
) -> None:
    shutil.copytree(stages[stage], tmp_path / "lake")
    path = max((tmp_path / "lake" / "tiny").glob(pattern), key=lambda p: p.stat().st_size)
    damaged = flip(path)
    run(small_config)
    assert digests(tmp_path / "lake") == digests(stages[""])
    (kept,) = (tmp_path / "lake").rglob("_damaged/*")
    assert (kept.name, kept.read_bytes()) == (path.name, damaged)
    verify(small_config)


@pytest.mark.ray
def test_what_a_ray_worker_finds_damaged_is_recomputed_and_a_short_file_is_too(
    stages: dict[str, Path],
    small: Collection,
    tmp_path: Path,
    write_config: Callable[..., str],
    ray_cluster: None,
) -> None:
    shutil.copytree(stages["merge"], tmp_path / "lake")
    store = open_lake(str(tmp_path / "lake"), "tiny")
    (manifest,) = (tmp_path / "lake" / "tiny").glob("results/*/merge-*/manifest.json")
    manifest.unlink()
    folder = str(manifest.parent.relative_to(tmp_path / "lake" / "tiny"))
    first, second, *_ = Dataset(store, folder).records().values()
    short = Path(store.path(first.files["candidates"].key))
    short.write_bytes(short.read_bytes()[:-10])
    flip(Path(store.path(second.files["candidates"].key)))
    run(write_config(small.config(tmp_path / "lake", layout=TINY, cluster=ON_RAY)))
    assert digests(tmp_path / "lake") == digests(stages[""])
    again = Dataset(store, folder).records()
    assert again[first.shard].attempt == again[second.shard].attempt == 1


@pytest.mark.s3
def test_damaged_work_on_s3_is_made_anew_where_that_is_allowed(
    small: Collection,
    s3_url: str,
    tmp_path: Path,
    write_config: Callable[..., str],
) -> None:
    root = f"{s3_url}/damaged"
    config = write_config(small.config(root))
    stop_after(config, "merge")
    client = boto3.client("s3")
    found = client.list_objects_v2(Bucket="lake", Prefix="damaged/tiny/results/")["Contents"]
    key = next(one["Key"] for one in found if ".candidates-" in one["Key"])
    data = client.get_object(Bucket="lake", Key=key)["Body"].read()
    client.put_object(Bucket="lake", Key=key, Body=flipped(data))

    with proxy(os.environ["AWS_ENDPOINT_URL"]) as denying:
        # As the role of infra/iam/writer.json is answered.
        denying.faults = Faults(rates={"delete_denied": 1.0})
        with pytest.raises(NightrankError) as caught:
            run(config, f"storage_options.endpoint_url={denying.url}")
    assert denying.faults.counts()["delete_denied"]
    assert caught.value.exit_code == 7 and "delete this file" in str(caught.value)
    run(config)
    run(write_config(small.config(tmp_path / "lake"), "local.yaml"))
    assert digests(root) == digests(tmp_path / "lake")


@pytest.mark.parametrize("again", [False, True])
def test_a_run_goes_on_after_one_damaged_file_and_ends_with_the_second_of_a_shard(
    stages: dict[str, Path],
    tmp_path: Path,
    small_config: str,
    monkeypatch: pytest.MonkeyPatch,
    again: bool,
) -> None:
    shutil.copytree(stages["embed"], tmp_path / "lake")
    whole, spoilt = Reader._whole, set[str]()

    def read(self: Reader, ref: FileRef) -> Any:
        data, found = whole(self, ref)
        if (
            "/merge-" in ref.key
            and "/_data/part-00001" in ref.key
            and (again or spoilt <= {ref.key})
        ):
            spoilt.add(ref.key)
            found = "sound bytes", "others"
        return data, found

    monkeypatch.setattr(Reader, "_whole", read)
    if again:
        with pytest.raises(NightrankError) as caught:
            run(small_config)
        assert caught.value.exit_code == 7 and ".candidates-" in str(caught.value)
    else:
        run(small_config)
        assert digests(tmp_path / "lake") == digests(stages[""])
        verify(small_config)
    assert len(list((tmp_path / "lake").rglob("_damaged/*"))) == 1
    assert len(Log(open_lake(str(tmp_path / "lake"), "tiny"), "index").generations()) == 1


@pytest.mark.parametrize("name", ["ranked", "queries", "changes"])
@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-1]), flip])
def test_what_a_twin_may_be_about_to_publish_is_refused_and_stays_where_it_is(
    stages: dict[str, Path],
    tmp_path: Path,
    small_config: str,
    name: str,
    damage: Callable[[Path], Any],
) -> None:
    """No stage of a first publication reads these."""
    shutil.copytree(stages["changes"], tmp_path / "lake")
    path = next((tmp_path / "lake").rglob(f"results/*/*/_data/*.{name}-*"))
    damage(path)
    with pytest.raises(NightrankError) as caught:
        run(small_config)
    assert caught.value.exit_code == 7 and path.name in str(caught.value) and path.exists()
    assert not list((tmp_path / "lake").rglob("_damaged"))
    assert not Log(open_lake(str(tmp_path / "lake"), "tiny"), "results").generations()


def test_what_is_published_is_refused_and_stays_where_it_is(
    stages: dict[str, Path], small: Collection, tmp_path: Path, write_config: Callable[..., str]
) -> None:
    shutil.copytree(stages[""], tmp_path / "lake")
    plain = small.config(tmp_path / "lake", layout=TINY)
    path = next((tmp_path / "lake").rglob("build_index-*/_data/*.faiss"))
    damaged = flip(path)
    more = write_jsonl(tmp_path / "q.jsonl", [*small.queries, {"_id": "new", "text": "loan"}])
    with pytest.raises(NightrankError) as caught:
        run(write_config({**plain, "queries": {"path": str(more)}}, "more.yaml"))
    assert caught.value.exit_code == 7 and path.name in str(caught.value)
    assert path.read_bytes() == damaged and not list((tmp_path / "lake").rglob("_damaged"))
