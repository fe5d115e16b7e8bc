"""Clones the RayJob template, waits for the clone and exits with the exit code of its job.

The pod of the CronJob runs it as `python nightly.py TEMPLATE`; it needs the standard library alone.
Clones are named after the Kubernetes Job and numbered. A pod that replaces an evicted one joins the
clone that is still running. A pod that retries a transient failure creates the next clone and
passes the time at which the first one was created: all attempts share the deadline `budget.until`.
The Job owns its clones: deleting the Job deletes them.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from typing import Any

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
JOB_LABEL = "nightrank.io/job"
# A local queue of Kueue. The template does not have this label, since Kueue would start it.
QUEUE_LABEL, QUEUE = "kueue.x-k8s.io/queue-name", os.environ.get("QUEUE_NAME", "")
POLL_SECONDS = float(os.environ.get("POLL_SECONDS", "15"))
# The API server may be unavailable for a while, e.g. during an upgrade.
PATIENCE_SECONDS = float(os.environ.get("PATIENCE_SECONDS", "600"))
TRANSIENT, BUG = 9, 70
# Ray: "Job entrypoint command failed with exit code 4, last available logs ..."
EXIT_CODE = re.compile(r"failed with exit code (-?\d+)")


class Api:
    """The RayJobs of this pod's namespace, through the API server."""

    def __init__(self) -> None:
        account = os.environ.get("ACCOUNT_FOLDER", ACCOUNT)
        host = os.environ["KUBERNETES_SERVICE_HOST"]
        port = os.environ["KUBERNETES_SERVICE_PORT"]
        self._token_path = f"{account}/token"
        with open(f"{account}/namespace") as file:
            namespace = file.read().strip()
        scheme = os.environ.get("API_SCHEME", "https")
        self._url = f"{scheme}://{host}:{port}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        self._context = None
        if scheme == "https":
            self._context = ssl.create_default_context(cafile=f"{account}/ca.crt")

    def call(self, method: str, path: str = "", body: dict[str, Any] | None = None) -> Any:
        """Sends one request and returns the reply's JSON.

        The token is read for each request, since the kubelet renews it.

        Raises:
            OSError: the API server did not answer, or refused (`urllib.error.HTTPError`).
        """
        with open(self._token_path) as file:
            headers = {"Authorization": f"Bearer {file.read().strip()}"}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30, context=self._context) as reply:
            return json.load(reply)


def clone(template: dict[str, Any], job: str, uid: str, number: int, began: str) -> dict[str, Any]:
    """The RayJob to create: the template, not suspended, owned by the Kubernetes Job.

    Args:
        template: the suspended RayJob.
        job: name of the Kubernetes Job.
        uid: uid of the Kubernetes Job.
        number: of the attempt, from 1.
        began: time in UTC at which the first attempt was created, for `nightly --began`.
    """
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": uid}
    labels = {**template["metadata"].get("labels", {}), JOB_LABEL: job}
    return {
        "apiVersion": template["apiVersion"],
        "kind": template["kind"],
        "metadata": {
            "name": f"{job}-{number}",
            "labels": {**labels, QUEUE_LABEL: QUEUE} if QUEUE else labels,
            "ownerReferences": [owner],
        },
        "spec": {
            **template["spec"],
            "suspend": False,
            "entrypoint": f"{template['spec']['entrypoint']} --began {began}",
        },
    }


def ended(rayjob: dict[str, Any]) -> bool:
    """Whether the RayJob has ended."""
    status = rayjob.get("status", {})
    return status.get("jobDeploymentStatus") in ("Complete", "Failed")


def exit_code(rayjob: dict[str, Any]) -> int:
    """The exit code of the job; 9 if the cluster failed rather than the job."""
    status = rayjob.get("status", {})
    if status.get("jobStatus") == "SUCCEEDED":
        return 0
    if status.get("jobStatus") == "STOPPED":
        return 143
    match = EXIT_CODE.search(status.get("message", ""))
    if not match:
        return TRANSIENT
    code = int(match.group(1))
    return code if code >= 0 else 128 - code


def join_or_create(api: Api, template: str, job: str, uid: str) -> dict[str, Any]:
    """The clone to wait for: the newest of this Job if it has not ended, else a new one."""
    clones = api.call("GET", f"?labelSelector={JOB_LABEL}%3D{job}")["items"]
    clones.sort(key=lambda item: int(item["metadata"]["name"].rpartition("-")[2]))
    if clones and not ended(clones[-1]):
        print(f"joining {clones[-1]['metadata']['name']}", flush=True)
        return dict(clones[-1])
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    began = clones[0]["metadata"].get("creationTimestamp", now) if clones else now
    rayjob = clone(api.call("GET", f"/{template}"), job, uid, len(clones) + 1, began)
    print(f"creating {rayjob['metadata']['name']}", flush=True)
    return dict(api.call("POST", "", rayjob))


def main(template: str) -> int:
    """Creates or joins the RayJob and waits for its end; the exit code of its job."""
    api, job, uid = Api(), os.environ["JOB_NAME"], os.environ["JOB_UID"]
    rayjob: dict[str, Any] | None = None
    printed, answered = "", time.monotonic()
    while True:
        try:
            if rayjob is None:
                rayjob = join_or_create(api, template, job, uid)
            else:
                rayjob = api.call("GET", f"/{rayjob['metadata']['name']}")
            answered = time.monotonic()
        except urllib.error.HTTPError as error:
            if error.code in (400, 401, 403, 404, 422):
                print(f"the API server refused: {error.code} {error.read().decode()[:500]}")
                return BUG
        except OSError as error:
            print(f"the API server does not answer: {error}", flush=True)
        if time.monotonic() - answered > PATIENCE_SECONDS:
            return TRANSIENT
        status = (rayjob or {}).get("status", {})
        state = f"{status.get('jobDeploymentStatus', 'New')} {status.get('jobStatus', '')}".strip()
        if state != printed:
            print(state, flush=True)
            printed = state
        if rayjob and ended(rayjob):
            print(status.get("message", "")[-2000:], flush=True)
            return exit_code(rayjob)
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
