"""The night's script, as the CronJob's pod runs it, against an API server over HTTP."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.manifests import INFRA, Manifest, one

JOB, UID = "nightrank-nightly-29400000", "5d1c"
PATH = "/apis/ray.io/v1/namespaces/nightrank/rayjobs"
ENDED = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}


class RayJobs(ThreadingHTTPServer):
    """An API server that keeps RayJobs; `then` is what KubeRay makes of each one created."""

    def __init__(self, template: Manifest, then: list[dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, Any] = {template["metadata"]["name"]: template}
        self.then, self.created, self.failures = then, 0, 0
        self.times = [f"2026-11-{day}T23:30:0{day % 10}Z" for day in range(20, 30)]


class Handler(BaseHTTPRequestHandler):
    server: RayJobs

    def _answer(self, code: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.server.failures:
            self.server.failures -= 1
            return self._answer(503, {"message": "upgrading"})
        if self.headers["Authorization"] != "Bearer of-the-account":
            return self._answer(401, {"message": "Unauthorized"})
        url = urlsplit(self.path)
        objects = self.server.objects
        if url.path == PATH:
            key, _, value = parse_qs(url.query)["labelSelector"][0].partition("=")
            mine = [
                o for o in objects.values() if o["metadata"].get("labels", {}).get(key) == value
            ]
            return self._answer(200, {"items": mine})
        name = url.path.removeprefix(PATH + "/")
        return self._answer(200, objects[name]) if name in objects else self._answer(404, {})

    def do_POST(self) -> None:
        made = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = made["metadata"]["name"]
        if self.path != PATH or name in self.server.objects:
            return self._answer(409, {"message": "already exists"})
        made["metadata"]["creationTimestamp"] = self.server.times.pop(0)
        self.server.objects[name] = {**made, "status": self.server.then.pop(0)}
        self.server.created += 1
        # Answered as a real API server does: before any controller has seen the object.
        return self._answer(201, made)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def server(manifests: list[Manifest]) -> Iterator[RayJobs]:
    made = RayJobs(one(manifests, "RayJob"), [])
    thread = threading.Thread(target=made.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def night(server: RayJobs, folder: Path, token: str = "of-the-account", queue: str = "") -> Any:
    (folder / "token").write_text(token)
    (folder / "namespace").write_text("nightrank")
    env = {
        **os.environ,
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(server.server_address[1]),
        "API_SCHEME": "http",
        "ACCOUNT_FOLDER": str(folder),
        "JOB_NAME": JOB,
        "QUEUE_NAME": queue,
        "JOB_UID": UID,
        "POLL_SECONDS": "0.05",
        "PATIENCE_SECONDS": "2",
    }
    script = str(INFRA / "kubernetes/base/nightly.py")
    command = [sys.executable, "-I", script, "nightrank-nightly-template"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


def failed(code: int) -> dict[str, Any]:
    message = f"Job entrypoint command failed with exit code {code}, last available logs: ..."
    return {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": message}


def test_a_night_is_a_clone_of_the_template_that_the_job_owns(
    server: RayJobs, tmp_path: Path, manifests: list[Manifest]
) -> None:
    server.then = [ENDED]
    done = night(server, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    made = server.objects[f"{JOB}-1"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": JOB, "uid": UID}
    assert made["metadata"]["ownerReferences"] == [owner]
    template = one(manifests, "RayJob")
    entrypoint = made["spec"]["entrypoint"]
    assert made["spec"] == {**template["spec"], "suspend": False, "entrypoint": entrypoint}
    command, _, began = entrypoint.partition(" --began ")
    assert command == template["spec"]["entrypoint"]
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(began)
    assert datetime.timedelta(0) <= age < datetime.timedelta(minutes=2)
    # KubeRay refuses a longer name.
    assert len(made["metadata"]["name"]) <= 47


def test_a_night_is_given_to_a_queue_and_the_template_is_not(
    server: RayJobs, tmp_path: Path, manifests: list[Manifest]
) -> None:
    server.then, label = [ENDED, ENDED], "kueue.x-k8s.io/queue-name"
    assert night(server, tmp_path).returncode == 0
    assert night(server, tmp_path, queue="nights").returncode == 0
    given = [server.objects[f"{JOB}-{n}"]["metadata"]["labels"].get(label) for n in (1, 2)]
    assert given == [None, "nights"]
    assert label not in one(manifests, "RayJob")["metadata"]["labels"]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (failed(4), 4),
        (failed(9), 9),
        (failed(10), 10),
        (failed(-9), 137),
        ({"jobDeploymentStatus": "Failed", "message": "the head pod was lost"}, 9),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, 143),
    ],
)
def test_the_pod_ends_with_the_exit_code_of_the_job(
    server: RayJobs, tmp_path: Path, status: dict[str, Any], code: int
) -> None:
    server.then = [status]
    assert night(server, tmp_path).returncode == code


def test_a_retry_makes_the_next_clone(server: RayJobs, tmp_path: Path) -> None:
    server.then = [failed(9), ENDED]
    assert night(server, tmp_path).returncode == 9
    assert night(server, tmp_path).returncode == 0
    assert {f"{JOB}-1", f"{JOB}-2"} < set(server.objects)
    # The night began with the first try, as the API server has it, and so did its deadline.
    entrypoint = server.objects[f"{JOB}-2"]["spec"]["entrypoint"]
    first = server.objects[f"{JOB}-1"]["metadata"]["creationTimestamp"]
    assert entrypoint.endswith(f" --began {first}")


def test_a_pod_that_replaces_an_evicted_one_joins_what_is_going_on(
    server: RayJobs, tmp_path: Path
) -> None:
    server.then = [failed(9)]
    assert night(server, tmp_path).returncode == 9
    going = server.objects[f"{JOB}-1"]
    going["status"] = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
    timer = threading.Timer(1.0, lambda: going.update(status=ENDED))
    timer.start()
    joined = night(server, tmp_path)
    timer.join()
    assert joined.returncode == 0 and "joining" in joined.stdout
    assert server.created == 1


def test_an_api_server_that_is_away_for_a_moment_is_waited_for(
    server: RayJobs, tmp_path: Path
) -> None:
    server.then, server.failures = [ENDED], 3
    assert night(server, tmp_path).returncode == 0
    server.failures = 10_000
    assert night(server, tmp_path).returncode == 9


def test_a_scheduler_that_may_not_is_a_fault_and_no_reason_to_try_again(
    server: RayJobs, tmp_path: Path
) -> None:
    refused = night(server, tmp_path, token="of-somebody-else")
    assert refused.returncode == 70 and "401" in refused.stdout
    assert "Traceback" not in refused.stderr
