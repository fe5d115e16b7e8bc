"""`nightrank submit` against a job server with token authentication, in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nightrank.cli.submit import entrypoint, portable, submission_stem
from nightrank.config.file import load_config
from nightrank.config.schema import PipelineConfig
from nightrank.generations.results import generation_of, open_lake
from tests.support.cluster import ON_RAY, TokenCluster
from tests.support.collection import Collection
from tests.support.program import nightrank

pytestmark = pytest.mark.ray
Write = Callable[..., str]


@pytest.fixture
def config(collection: Collection, tmp_path: Path, write_config: Write) -> str:
    # In one process: the cluster's part in these tests is the job, not the stages.
    return write_config(collection.config(tmp_path / "lake", cluster={"executor": "serial"}))


@pytest.fixture
def long_config(collection: Collection, tmp_path: Path, write_config: Write) -> str:
    """A job that does not end by itself: its input is a pipe that nobody writes to."""
    pipe = tmp_path / "corpus.jsonl"
    os.mkfifo(pipe)
    plain = collection.config(tmp_path / "lake", cluster={"executor": "serial"})
    return write_config({**plain, "corpus": {"path": str(pipe)}}, "long.yaml")


def submit(cluster: TokenCluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return nightrank("submit", *arguments, env=cluster.env)


def follow(cluster: TokenCluster, config: str) -> subprocess.Popen[str]:
    """A follower that has begun to hand on the job's log."""
    follower = subprocess.Popen(
        [sys.executable, "-m", "nightrank", "submit", config],
        env={**os.environ, **cluster.env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout
    for line in follower.stdout:
        if "Running entrypoint" in line:
            return follower
    raise AssertionError(f"no log came: {follower.communicate()[1]}")


def job_client(cluster: TokenCluster) -> Any:
    from ray.job_submission import JobSubmissionClient

    token = cluster.env["RAY_AUTH_TOKEN"]
    return JobSubmissionClient(cluster.address, headers={"Authorization": f"Bearer {token}"})


def ids_of(*results: subprocess.CompletedProcess[str]) -> list[str]:
    return [result.stdout.strip().splitlines()[-1] for result in results]


def test_a_submitted_config_gives_what_the_same_config_gives_here(
    token_cluster: TokenCluster, collection: Collection, tmp_path: Path, write_config: Write
) -> None:
    there = write_config(collection.config(tmp_path / "there", cluster=ON_RAY), "there.yaml")
    here = write_config(collection.config(tmp_path / "here"), "here.yaml")
    done = submit(token_cluster, there, "--set", "results.keep=3", "--", "--json")
    assert done.returncode == 0, done.stderr
    assert nightrank("run", here, "--set", "results.keep=3").returncode == 0
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["generation"] == 1 and told["queries"]["ranked"] == 60
    commands = [job.entrypoint for job in job_client(token_cluster).list_jobs()]
    assert entrypoint("run", "./there.yaml", ["--json"]) in commands
    files = [
        [
            file["sha256"]
            for file in generation_of(open_lake(str(root), "tiny")).body["files"]["ranked"]
        ]
        for root in (tmp_path / "there", tmp_path / "here")
    ]
    assert files[0] == files[1]
    # Nothing of the submitter's environment goes along, and of Ray's own talk nothing is heard.
    assert token_cluster.env["RAY_AUTH_TOKEN"] not in str(job_client(token_cluster).list_jobs())
    assert all(line.startswith("nightrank: ") for line in done.stderr.splitlines())


def test_the_exit_code_of_the_job_is_the_exit_code_of_the_command(
    token_cluster: TokenCluster, config: str
) -> None:
    refused = submit(token_cluster, config, "--set", "corpus.columns.text=nowhere")
    assert refused.returncode == 4
    assert "error[E_SCHEMA]" in refused.stdout
    assert "Traceback" not in refused.stdout + refused.stderr


def test_a_second_submission_joins_the_first_and_stop_ends_both(
    token_cluster: TokenCluster, long_config: str
) -> None:
    first = submit(token_cluster, long_config, "--no-wait")
    again = submit(token_cluster, long_config, "--no-wait")
    assert ids_of(first) == ids_of(again) and "joined" in again.stderr

    # Ctrl-C ends the following and not the job.
    follower = follow(token_cluster, long_config)
    follower.send_signal(signal.SIGINT)
    _, told = follower.communicate(timeout=60)
    assert follower.returncode == 130 and "continues and is not followed" in told

    follower = follow(token_cluster, long_config)
    stopped = submit(token_cluster, long_config, "--stop")
    assert stopped.returncode == 0 and "has ended (stopped)" in stopped.stderr
    follower.communicate(timeout=60)
    assert follower.returncode == 143
    nothing = submit(token_cluster, long_config, "--stop")
    assert nothing.returncode == 0 and "nothing to stop" in nothing.stderr

    fresh = submit(token_cluster, long_config, "--no-wait")
    assert ids_of(fresh) == [ids_of(first)[0].removesuffix(".1") + ".2"]
    submit(token_cluster, long_config, "--stop")


def test_submitters_who_come_at_the_same_moment_share_one_job(
    token_cluster: TokenCluster, long_config: str
) -> None:
    found: list[Any] = [None, None, None]

    def one(place: int) -> None:
        found[place] = submit(token_cluster, long_config, "--no-wait", "--set", "results.keep=4")

    threads = [threading.Thread(target=one, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    submit(token_cluster, long_config, "--stop", "--set", "results.keep=4")
    assert len(set(ids_of(*found))) == 1
    assert sum("submitted" in result.stderr for result in found) == 1


def test_a_job_can_be_submitted_from_inside_the_cluster(
    token_cluster: TokenCluster, config: str, tmp_path: Path
) -> None:
    """A job that itself submits: there the environment alone says where the cluster is."""
    inner = f"python -m nightrank submit {config} --set rerank.depth=7"
    client = job_client(token_cluster)
    outer = client.submit_job(entrypoint=f"env -u RAY_API_SERVER_ADDRESS {inner}")
    until = time.monotonic() + 90
    while not client.get_job_status(outer).is_terminal() and time.monotonic() < until:
        time.sleep(0.5)
    assert client.get_job_info(outer).driver_exit_code == 0, client.get_job_logs(outer)
    assert generation_of(open_lake(str(tmp_path / "lake"), "tiny")).generation == 1


def test_code_that_is_sent_along_is_the_code_that_runs(
    token_cluster: TokenCluster, config: str, tmp_path: Path
) -> None:
    where = "python -c 'import nightrank; print(nightrank.__file__)'"
    program = f"""
import sys
from nightrank.cli.submit import _code
from nightrank.runtime.ray_jobs import RayJobs
cluster = RayJobs(None)
environment = {{"working_dir": {str(tmp_path)!r}, "py_modules": _code()}}
job, fresh = cluster.submit("code", {where!r}, environment, {{}})
print(cluster.follow(job.id, sys.stdout.write).exit_code)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **token_cluster.env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    *_, found, code = done.stdout.strip().splitlines()
    assert code == "0", done.stdout + done.stderr
    assert all("_ray_pkg_" in path for path in found.split()), found


@pytest.mark.parametrize(
    ("env", "code", "words"),
    [
        ({"RAY_AUTH_TOKEN": "0" * 32}, 3, "error[E_AUTH]"),
        ({"RAY_AUTH_MODE": "disabled"}, 3, "error[E_AUTH]"),
        (
            {"RAY_AUTH_MODE": "disabled", "RAY_API_SERVER_ADDRESS": "http://203.0.113.9:8265"},
            3,
            "accepted only for a cluster on this machine",
        ),
        ({"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1"}, 9, "error[E_CLUSTER]"),
        ({"RAY_API_SERVER_ADDRESS": "nonsense"}, 9, "error[E_CLUSTER]"),
    ],
)
def test_who_is_not_let_in_is_told_so_in_one_line(
    token_cluster: TokenCluster, config: str, env: dict[str, str], code: int, words: str
) -> None:
    refused = nightrank("submit", config, env={**token_cluster.env, **env})
    assert refused.returncode == code
    last = refused.stderr.strip().splitlines()[-1]
    assert last.startswith("nightrank: ") and words in last and "Traceback" not in refused.stderr


def test_run_attaches_to_the_cluster_that_config_or_environment_name(
    token_cluster: TokenCluster, collection: Collection, tmp_path: Path, write_config: Write
) -> None:
    def drivers() -> int:
        return sum(job.type == "DRIVER" for job in job_client(token_cluster).list_jobs())

    plain = collection.config(tmp_path / "lake", cluster=ON_RAY)
    config, before = write_config(plain), drivers()
    wrong = ("--set", f"cluster.address={token_cluster.address}")
    refused = nightrank("run", config, *wrong, env=token_cluster.env)
    assert refused.returncode == 2 and "nightrank submit" in refused.stderr
    named = ("--set", f"cluster.address={token_cluster.gcs}")
    # `submit` finds the job server of a cluster that is named by its own address.
    found = nightrank("submit", config, "--stop", *named, env=token_cluster.env)
    assert found.returncode == 0 and token_cluster.address in found.stderr
    assert nightrank("run", config, *named, env=token_cluster.env).returncode == 0
    assert drivers() == before + 1
    # What is published and current needs no cluster; anything else needs the token.
    env = {**token_cluster.env, "RAY_ADDRESS": token_cluster.gcs}
    stranger = {**env, "RAY_AUTH_TOKEN": "", "HOME": str(tmp_path)}
    assert nightrank("run", config, env=stranger).returncode == 0
    refused = nightrank("run", config, "--set", "results.keep=1", env=stranger)
    assert refused.returncode == 3 and "error[E_AUTH]" in refused.stderr


def test_what_is_shipped_means_what_it_meant_here(
    collection: Collection, tmp_path: Path, write_config: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = collection.config("lake", cluster={"executor": "ray", "address": "auto"})
    plain["rerank"] = [
        {"name": "fast", "model": "toy:overlap", "depth": 9},
        {"name": "own", "model": "models/mine", "depth": 3},
    ]
    (tmp_path / "models" / "mine").mkdir(parents=True)
    loaded = load_config(write_config(plain), ["results.keep=2"])
    shipped = PipelineConfig.model_validate(json.loads(portable(loaded)))
    assert shipped.root == str(tmp_path / "lake") and shipped.cluster.address is None
    assert shipped.rerank[1].model == str(tmp_path / "models" / "mine")
    assert shipped.results.keep == 2
    unchanged = {"root", "cluster", "rerank"}
    assert shipped.model_dump(exclude=unchanged) == loaded.model_dump(exclude=unchanged)


def test_a_submission_is_known_by_config_verb_and_options(
    collection: Collection, write_config: Write
) -> None:
    def stem(root: str, verb: str, *options: str) -> str:
        loaded = load_config(write_config(collection.config(root)))
        return submission_stem(loaded.name, verb, portable(loaded), list(options))

    stems = [
        stem("s3://bucket/lake", "run"),
        stem("s3://bucket/lake", "nightly"),
        stem("s3://bucket/other", "run"),
        stem("s3://bucket/lake", "run", "--to", "merge"),
    ]
    assert len(set(stems)) == 4 and stem("s3://bucket/lake", "run") == stems[0]
    assert all(name.startswith("nightrank-tiny-") for name in stems)
