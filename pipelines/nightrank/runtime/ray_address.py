"""Checks a cluster's port before Ray does: Ray waits for minutes and names no port."""

from __future__ import annotations

import os
import socket
import time
from urllib.parse import urlsplit

from nightrank.errors import NightrankError

# The first bytes of a gRPC client, and the frame that every server answers them with (RFC 9113,
# 3.4).
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
FRAME_BYTES, FRAME_TYPE, SETTINGS = 9, 3, 4
# A head that restarts is back within seconds; an answer takes milliseconds.
RETRY_SECONDS, ANSWER_SECONDS = 10.0, 5.0
# Sets the port of a cluster that is started here.
OWN_PORT = "RAY_GCS_SERVER_PORT"


def refuse_unreachable(address: str) -> None:
    """Refuses an address where no Ray answers.

    Args:
        address: host:port, with or without `ray://`; names such as `auto` are left to Ray.

    Raises:
        NightrankError: E_CLUSTER where nothing listens, or what listens does not speak gRPC.
    """
    parts = urlsplit(address if "//" in address else f"//{address}")
    if not parts.hostname or not parts.port or os.environ.get("RAY_USE_TLS", "0") != "0":
        return
    here = "`ray stop` ends a leftover Ray, `ray start --head --port N` takes another port"
    until = time.monotonic() + RETRY_SECONDS
    while True:
        try:
            answer = _answer(parts.hostname, parts.port)
            break
        except OSError as error:
            if time.monotonic() > until:
                what = f"nothing answers on port {parts.port}: {error.strerror or error}"
                do = "start the cluster, or correct cluster.address; the same command resumes"
                raise NightrankError("E_CLUSTER", what, address, do) from None
            time.sleep(0.2)
    if len(answer) < FRAME_BYTES or answer[FRAME_TYPE] != SETTINGS:
        what = f"port {parts.port} is taken by a program that is not Ray"
        raise NightrankError("E_CLUSTER", what, address, f"correct cluster.address; {here}")


def _answer(host: str, port: int) -> bytes:
    """The first bytes of the answer; empty if the server is silent or closes the connection."""
    with socket.create_connection((host, port), ANSWER_SECONDS) as connection:
        connection.sendall(PREFACE)
        try:
            return connection.recv(FRAME_BYTES)
        except (TimeoutError, ConnectionError):
            return b""


def refuse_taken_port() -> None:
    """Refuses to start a cluster on a port that another program has, usually another Ray.

    Raises:
        NightrankError: E_CLUSTER, where `RAY_GCS_SERVER_PORT` names such a port.
    """
    port = os.environ.get(OWN_PORT, "")
    if not port.isdecimal() or not int(port):
        return  # Ray takes a free one.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(port)))
        except OSError as error:
            what = f"port {port} of this machine is taken, perhaps by another Ray: {error.strerror}"
            do = f"`ray stop` ends a leftover Ray; or unset {OWN_PORT}, then Ray takes a free port"
            raise NightrankError("E_CLUSTER", what, OWN_PORT, do) from None
