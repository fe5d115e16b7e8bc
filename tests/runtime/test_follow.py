"""Following a job through connections that break."""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import subprocess
import sys
import threading
from urllib.parse import urlsplit

import pytest

from tests.support.cluster import TokenCluster

pytestmark = pytest.mark.ray


class Proxy(socketserver.ThreadingTCPServer):
    """Between a client and the job server; `cut` breaks every connection that is open."""

    daemon_threads = True

    def __init__(self, address: str) -> None:
        self.target = urlsplit(address).hostname, urlsplit(address).port
        self.open: set[socket.socket] = set()
        self.broken = 0
        super().__init__(("127.0.0.1", 0), Passage)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def cut(self) -> None:
        for one in list(self.open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
                self.broken += 1


class Passage(socketserver.BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        with socket.create_connection(self.server.target) as there:
            both = {self.request, there}
            self.server.open |= both
            back = threading.Thread(target=self._pass, args=(there, self.request), daemon=True)
            back.start()
            self._pass(self.request, there)
            back.join()
            self.server.open -= both

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


def test_a_log_is_taken_up_where_the_connection_broke_off(
    token_cluster: TokenCluster,
) -> None:
    proxy = Proxy(token_cluster.address)
    count = "python -c 'import time; [print(i, flush=True) or time.sleep(0.1) for i in range(40)]'"
    program = f"""
import sys
from nightrank.runtime.ray_jobs import RayJobs
cluster = RayJobs("http://127.0.0.1:{proxy.server_address[1]}")
job, fresh = cluster.submit("count", {count!r}, {{}}, {{}})
sys.exit(cluster.follow(job.id, lambda text: print(text, end="", flush=True)).exit_code)
"""
    follower = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, **token_cluster.env},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout
    lines = []
    for line in follower.stdout:
        lines += [line.strip()] if line.strip().isdigit() else []
        if line.strip() in ("5", "15", "30"):
            proxy.cut()
    assert follower.wait(60) == 0
    follower.stdout.close()
    proxy.shutdown()
    proxy.server_close()
    assert proxy.broken >= 3
    assert lines == [str(i) for i in range(40)]
