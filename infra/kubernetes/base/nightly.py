"""Clones the RayJob template for tonight, waits for the clone, ends with the job's exit code.

Run by the CronJob's pod as `python nightly.py TEMPLATE`, with Python's own library alone. Clones
are named after the Kubernetes Job and numbered: a pod that replaces an evicted one joins the clone
that is still going, a pod that retries a transient failure makes the next, which is given the time
at which the first was created: `budget.until` is the night's. The Job owns its clones, so deleting
it ends them.
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
# A local queue of Kueue's. Not a label of the template: that one is never to be admitted.
QUEUE_LABEL, QUEUE = "kueue.x-k8s.io/queue-name", os.environ.get("QUEUE_NAME", "")
POLL_SECONDS = float(os.environ.get("POLL_SECONDS", "15"))
# The API server may be away for a while, e.g. when it is upgraded.
PATIENCE_SECONDS = float(os.environ.get("PATIENCE_SECONDS", "600"))
TRANSIENT, BUG = 9, 70
# Ray: "Job entrypoint command failed with exit code 4, last available logs ..."
EXIT_CODE = re.compile(r"failed with exit code (-?\d+)")


class Api:
    """RayJobs of this pod's namespace, through the API server."""

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
        """One request; the token is read each time, since the kubelet renews it."""
        with open(self._token_path) as file:
            headers = {"Authorization": f"Bearer {file.read().strip()}"}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30, context=self._context) as reply:
            return json.load(reply)


def clone(template: dict[str, Any], job: str, uid: str, number: int, began: str) -> dict[str, Any]:
    """Tonight's RayJob: the template, no longer suspended, owned by the Kubernetes Job."""
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
    """Whether KubeRay is done with it."""
    status = rayjob.get("status", {})
    return status.get("jobDeploymentStatus") in ("Complete", "Failed")


def exit_code(rayjob: dict[str, Any]) -> int:
    """The job's own exit code; 9 where the cluster failed rather than the job."""
    status = rayjob.get("status", {})
    if status.get("jobStatus") == "SUCCEEDED":
        return 0
    if status.get("jobStatus") == "STOPPED":
        return 143
    found = EXIT_CODE.search(status.get("message", ""))
    if not found:
        return TRANSIENT
    code = int(found.group(1))
    return code if code >= 0 else 128 - code


def tonight(api: Api, template: str, job: str, uid: str) -> dict[str, Any]:
    """The clone to wait for: the newest of this Job if it has not ended, else a new one."""
    mine = api.call("GET", f"?labelSelector={JOB_LABEL}%3D{job}")["items"]
    mine.sort(key=lambda item: int(item["metadata"]["name"].rpartition("-")[2]))
    if mine and not ended(mine[-1]):
        print(f"joining {mine[-1]['metadata']['name']}", flush=True)
        return dict(mine[-1])
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    began = mine[0]["metadata"].get("creationTimestamp", now) if mine else now
    made = clone(api.call("GET", f"/{template}"), job, uid, len(mine) + 1, began)
    print(f"creating {made['metadata']['name']}", flush=True)
    return dict(api.call("POST", "", made))


def main(template: str) -> int:
    """Starts or joins tonight's job and waits for its end."""
    api, job, uid = Api(), os.environ["JOB_NAME"], os.environ["JOB_UID"]
    rayjob: dict[str, Any] | None = None
    told, answered = "", time.monotonic()
    while True:
        try:
            if rayjob is None:
                rayjob = tonight(api, template, job, uid)
            else:
                rayjob = api.call("GET", f"/{rayjob['metadata']['name']}")
            answered = time.monotonic()
        except urllib.error.HTTPError as error:
            if error.code in (400, 401, 403, 404, 422):
                print(f"the API server refuses: {error.code} {error.read().decode()[:500]}")
                return BUG
        except OSError as error:
            print(f"the API server does not answer: {error}", flush=True)
        if time.monotonic() - answered > PATIENCE_SECONDS:
            return TRANSIENT
        status = (rayjob or {}).get("status", {})
        now = f"{status.get('jobDeploymentStatus', 'New')} {status.get('jobStatus', '')}".strip()
        if now != told:
            print(now, flush=True)
            told = now
        if rayjob and ended(rayjob):
            print(status.get("message", "")[-2000:], flush=True)
            return exit_code(rayjob)
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
