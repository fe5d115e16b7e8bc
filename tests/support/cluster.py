"""A Ray cluster in processes of its own, as an operator would start it, with a token."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from tests.support.network import free_port

# Metrics every second; a dead node is noticed after some five seconds instead of fifteen.
SPEED = {"RAY_metrics_report_interval_ms": "200", "RAY_health_check_period_ms": "1000"}


class TokenCluster:
    """A head, and the nodes that are added.

    Attributes:
        address: its job server.
        gcs: what a driver on this machine attaches to.
        agent: the HTTP address of the head's agent, which answers health checks.
        metrics: where the head's metrics are scraped; they come every second.
        env: what a process needs to be let in.
    """

    def __init__(self, cpus: int, label: str = "") -> None:
        dashboard, gcs, metrics, agent = (free_port() for _ in range(4))
        self.address = f"http://127.0.0.1:{dashboard}"
        self.gcs = f"127.0.0.1:{gcs}"
        self.agent = f"http://127.0.0.1:{agent}"
        self.metrics = f"http://127.0.0.1:{metrics}/metrics"
        self.env = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": uuid.uuid4().hex,
            "RAY_API_SERVER_ADDRESS": self.address,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        self._folders: list[str] = []
        self._nodes: list[subprocess.Popen[bytes]] = []
        head = {
            "head": "true",
            "port": gcs,
            "dashboard-port": dashboard,
            "metrics-export-port": metrics,
            "dashboard-agent-listen-port": agent,
            "ray-client-server-port": free_port(),
        }
        try:
            self._start(head, cpus, label)
            self._await(f"{self.address}/api/gcs_healthz", f"{self.agent}/api/local_raylet_healthz")
        except BaseException:
            self.stop()
            raise

    def add(self, cpus: int, label: str, gpus: int = 0) -> subprocess.Popen[bytes]:
        """One more node, of the pool `label`; returns once it is healthy."""
        agent = free_port()
        node = {"address": self.gcs, "dashboard-agent-listen-port": agent, "num-gpus": gpus}
        started = self._start(node, cpus, label)
        self._await(f"http://127.0.0.1:{agent}/api/local_raylet_healthz")
        return started

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """Takes a node away at once, as a preemption or a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()

    def stop(self) -> None:
        """Ends every node."""
        for node in reversed(self._nodes):
            self.kill(node)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _start(self, options: dict[str, Any], cpus: int, label: str) -> subprocess.Popen[bytes]:
        # Of its own, as on a machine of its own: nodes that share one delete each other's packages.
        # And short, for sockets lie inside.
        self._folders.append(tempfile.mkdtemp(prefix="nr", dir="/tmp"))
        shared: dict[str, Any] = {
            "temp-dir": self._folders[-1],
            "num-cpus": cpus,
            "node-ip-address": "127.0.0.1",
            "min-worker-port": 0,
            "max-worker-port": 0,
            "object-store-memory": 100 << 20,
            "include-log-monitor": False,  # A process a node, for logs that nobody looks at.
        }
        if label:
            shared["labels"] = f"nightrank.io/pool={label}"
        flags = [f"--{k}" if v == "true" else f"--{k}={v}" for k, v in (options | shared).items()]
        started = subprocess.Popen(
            ["ray", "start", "--block", *flags],
            env={**os.environ, **self.env, **SPEED},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._nodes.append(started)
        return started

    def _await(self, *urls: str) -> None:
        until = time.monotonic() + 90
        for url in urls:
            while True:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(url, timeout=1).close()
                    break
                if time.monotonic() > until or self._nodes[-1].poll() is not None:
                    raise RuntimeError(f"the node never answered on {url}")
                time.sleep(0.1)


# A process takes some two seconds of a core to start: no more of them than a test needs.
ON_RAY: dict[str, Any] = {
    "executor": "ray",
    "pools": {"general": {"workers": 1}, "model": {"workers": 2}},
}
