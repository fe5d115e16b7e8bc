"""`nightrank doctor`: every fault is a line with what to do; the worst decides the exit code."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from nightrank.diagnosis import machine
from nightrank.diagnosis.finding import examine
from nightrank.diagnosis.store_access import abandoned_uploads, store_access
from nightrank.storage.store import Store
from tests.support.collection import Collection
from tests.support.network import free_port, moto_server

Write = Callable[..., str]
READ_ONLY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetObject"], "Resource": "*"}
    ],
}


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict]]:
    """The exit code, and the last finding of every check."""
    capsys.readouterr()
    code = guarded(lambda **_: app(["doctor", "--json", *arguments]))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(line["found"] for line in lines)
    assert all(line["do"] for line in lines if line["state"] != "ok")
    return code, {line["check"]: line for line in lines}


def test_a_fit_config_passes_every_check(
    collection: Collection, tmp_path: Path, write_config: Write, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    config = write_config(collection.config(tmp_path / "lake"))
    code, found = told(capsys, config)
    assert code == 0 and {line["state"] for line in found.values()} <= {"ok", "warn"}
    looked_at = {"python", "packages", "faiss", "ray auth", "disk", "open files", "gpu", "config"}
    looked_at |= {
        "access",
        "store",
        "corpus",
        "queries",
        "qrels",
        "encoder",
        "rerank",
        "encoder means",
        "rerank means",
    }
    assert looked_at <= set(found)
    assert guarded(lambda **_: app(["doctor"])) == 0
    plain = capsys.readouterr().out.splitlines()
    assert len(plain) >= 7 and all(line[:5].strip() in ("ok", "warn") for line in plain)


def test_what_is_wrong_is_told_and_the_rest_is_looked_at_all_the_same(
    collection: Collection, tmp_path: Path, write_config: Write, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("RAY_DATA_AUTOLOAD_PYEXTENSIONTYPE", "1")
    steps = [
        {"name": "gone", "model": str(tmp_path / "nowhere"), "depth": 9},
        {"name": "cannot", "model": "toy:overlap", "precision": "bf16", "depth": 5},
    ]
    plain = collection.config(tmp_path / "lake", rerank=steps)
    plain["queries"] = {"path": str(tmp_path / "no.jsonl")}
    code, found = told(capsys, write_config(plain))
    assert code == 3
    failed = {name for name, line in found.items() if line["state"] == "fail"}
    assert failed == {"ray data", "queries", "gone", "cannot"}
    assert "E_MODEL" in found["gone"]["found"] and "bf16" in found["cannot"]["found"]
    assert found["encoder"]["state"] == found["store"]["state"] == "ok"


def test_a_config_that_cannot_be_read_is_a_finding(tmp_path: Path, capsys) -> None:
    (tmp_path / "c.yaml").write_text("name: tiny\n")
    code, found = told(capsys, str(tmp_path / "c.yaml"))
    assert code == 3 and found["config"]["state"] == "fail" and "root" in found["config"]["found"]
    assert found["python"]["state"] == "ok" and "store" not in found


def test_a_store_that_does_not_answer(
    collection: Collection, write_config: Write, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "canary-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    endpoint = {"endpoint_url": f"http://127.0.0.1:{free_port()}"}
    plain = collection.config("s3://lake/x", storage_options=endpoint)
    code, found = told(capsys, write_config(plain))
    assert code == 3 and found["store"]["state"] == "fail"
    assert "E_STORE" in found["store"]["found"]
    assert found["encoder"]["state"] == "ok"  # What needs no store is looked at.
    assert "canary" not in json.dumps(found)


@pytest.mark.s3
def test_no_credentials_and_no_bucket(
    collection: Collection, s3_url: str, write_config: Write, capsys, monkeypatch
) -> None:
    missing = write_config(collection.config("s3://nosuchbucket/x"), "missing.yaml")
    code, found = told(capsys, missing)
    assert code == 3 and found["store"]["state"] == "fail"
    assert "nosuchbucket" in found["store"]["found"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    # Options of their own: fsspec keeps one connection for each set.
    options: dict[str, Any] = {"default_block_size": 1 << 20}
    nobody = collection.config(f"{s3_url}/doctor", storage_options=options)
    code, found = told(capsys, write_config(nobody, "nobody.yaml"))
    assert code == 3 and "E_AUTH" in found["store"]["found"]


@pytest.mark.s3
def test_a_bucket_is_looked_through(
    collection: Collection, s3_url: str, write_config: Write, capsys
) -> None:
    import boto3

    code, found = told(capsys, write_config(collection.config(f"{s3_url}/doctor")))
    assert code == 0
    assert {found[check]["state"] for check in ("access", "store", "clock", "uploads")} == {"ok"}
    client = boto3.client("s3")
    for key in ("doctor/tiny/results/a", "doctor-other/b"):
        client.create_multipart_upload(Bucket="lake", Key=key)
    # The server says of every upload that it began in 2010.
    code, found = told(capsys, write_config(collection.config(f"{s3_url}/doctor")))
    assert code == 0 and found["uploads"]["state"] == "warn"
    assert "1 unfinished for more than 7 days: doctor/tiny/results/a" in found["uploads"]["found"]
    century = 100 * 365 * 86_400.0
    assert abandoned_uploads(Store(f"{s3_url}/doctor/tiny"), century) == []


@pytest.fixture
def guarded_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """An S3 API that asks who comes; the credentials of a user who may only read."""
    import boto3

    with moto_server() as endpoint:
        client = {"endpoint_url": endpoint, "region_name": "us-east-1"}
        keys = {"aws_access_key_id": "root", "aws_secret_access_key": "root"}
        boto3.client("s3", **client, **keys).create_bucket(Bucket="lake")
        iam = boto3.client("iam", **client, **keys)
        iam.create_user(UserName="reader")
        document = json.dumps(READ_ONLY)
        iam.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=document)
        key = iam.create_access_key(UserName="reader")["AccessKey"]
        reset = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", data=b"0")
        reset.add_header("Content-Type", "text/plain")
        urllib.request.urlopen(reset).close()
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        yield {"endpoint_url": endpoint}


@pytest.mark.s3
def test_the_refused_action_is_named_and_no_key(
    collection: Collection, guarded_bucket: dict[str, str], write_config: Write, capsys
) -> None:
    plain = collection.config("s3://lake/x", storage_options=guarded_bucket)
    assert store_access(Store("s3://lake/x", guarded_bucket)).refused == ("s3:PutObject",)
    code, found = told(capsys, write_config(plain))
    assert code == 3 and found["access"]["state"] == "fail"
    assert "may not s3:PutObject under" in found["access"]["found"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert os.environ[name] not in json.dumps(found)


@pytest.mark.parametrize(
    ("memory", "disk", "files", "states"),
    [
        ("100m", "500m", 512, ("warn", "fail", "fail")),
        ("600m", "2g", 4096, ("ok", "warn", "warn")),
        ("600m", "21g", 8192, ("ok", "ok", "ok")),
    ],
)
def test_little_room_and_few_files_are_told(
    tmp_path: Path, memory: str, disk: str, files: int, states: tuple[str, ...]
) -> None:
    """On file systems of those sizes, and with that limit, in a process that sees no others."""
    alone = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = "mount -t tmpfs -o size="
    if subprocess.run([*alone, f"{mount}1m none {tmp_path}"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system of its own")
    # The folder may lie in shared memory.
    small = f"{mount}{memory} none /dev/shm && mkdir -p {tmp_path} && {mount}{disk} none {tmp_path}"
    command = f"{small} && ulimit -n {files} && exec {sys.executable} -m nightrank doctor --json"
    environment = {**os.environ, "TMPDIR": str(tmp_path), "RAY_TMPDIR": "/tmp"}
    done = subprocess.run([*alone, command], env=environment, capture_output=True, text=True)
    found = {line["check"]: line for line in map(json.loads, done.stdout.splitlines())}
    seen = [found[check] for check in ("shared memory", "disk", "open files")]
    assert tuple(line["state"] for line in seen) == states, done.stdout + done.stderr
    assert all(line["do"] for line in seen if line["state"] != "ok")
    assert done.returncode == (3 if "fail" in states else 0)


def test_packages_are_held_against_their_floors() -> None:
    found = list(machine.unmet(["numpy>=2", "numpy>=999", "no-such-thing>=1", 'x; extra == "gpu"']))
    assert [finding.state for finding in found] == ["fail", "fail"]
    assert "expected >=999" in found[0].found and "no-such-thing is missing" in found[1].found
    (good,) = machine.unmet(["numpy>=2"])
    assert good.state == "ok"


def test_gpus_without_a_compiler_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cuda_devices", lambda: ["H100, 80 GiB"])
    for there, state in ((True, "ok"), (False, "warn")):
        monkeypatch.setattr(machine, "can_compile", lambda there=there: there)
        (found,) = [f for f in machine.accelerators() if f.check == "gpu"]
        assert found.state == state and "H100" in found.found and ("gcc" in found.do) != there


def test_cuda_majors_are_read_from_metadata() -> None:
    assert machine.built_for("2.13.0+cu130", []) == 13
    assert machine.built_for("2.13.0+cpu", ["filelock"]) is None
    assert machine.built_for("1.15.1", ["numpy", "nvidia-cuda-runtime-cu12>=12.4"]) == 12
    assert machine.built_for("2.13.0", ["nvidia-cuda-runtime==13.0.96; x == 'y'"]) == 13
    assert machine.built_for("2.13.0", ["cuda-toolkit[cublas,cudart]==13.0.2; x == 'y'"]) == 13


def test_an_open_ray_is_worse_elsewhere_than_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    for address, state in (("", "warn"), ("auto", "warn"), ("head.example:6379", "fail")):
        found = examine("ray auth", functools.partial(machine.ray_settings, address))
        assert [f.state for f in found if f.check == "ray auth"] == [state]


def test_a_path_that_is_too_long_for_ray_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/" + 40 * "x")
    assert "ray sockets" in {f.check for f in machine.ray_settings("")}
    assert "ray sockets" not in {f.check for f in machine.ray_settings("head.example:6379")}
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert "ray sockets" not in {f.check for f in machine.ray_settings("")}
