"""An S3 API that fails: a proxy before moto's server that injects faults and logs each."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

KINDS = (
    "slow_down",
    "internal_error",
    "conflict",
    "reset",
    "lost_reply",
    "truncated",
    "bad_complete",
    "delete_failed",
)
ERRORS = {
    "slow_down": (503, "SlowDown"),
    "internal_error": (500, "InternalError"),
    "conflict": (409, "ConditionalRequestConflict"),
    "bad_complete": (200, "InternalError"),
}
# A reply of 200 that says of a key that it was not deleted.
UNDELETED = {"delete_failed": "InternalError", "delete_denied": "AccessDenied"}


@dataclass
class Request:
    """One request as it came over the wire."""

    method: str
    target: str
    head: bytes
    body: bytes

    @property
    def completes(self) -> bool:
        """Whether it completes a multipart upload."""
        return self.method == "POST" and "uploadId=" in self.target

    def admits(self, kind: str) -> bool:
        """Whether S3 could fail this request in this way."""
        conditional = b"if-none-match" in self.head.lower()
        wanted = {"conflict": conditional, "bad_complete": self.completes}
        wanted |= dict.fromkeys(UNDELETED, self.method == "POST" and "?delete" in self.target)
        return wanted.get(kind, kind != "truncated" or self.method == "GET")


@dataclass
class Faults:
    """What goes wrong, how often, and what did.

    Attributes:
        rates: probability of each kind, of the requests that admit it.
        only: kinds that hit the next request that admits them, each once; rates do not matter.
        outage_at: the request with which an outage begins: every connection is reset,
        outage_seconds: for so long.
        requests: how many came.
        log: (seconds since the start, kind, method, target) of every injection.
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    only: list[str] = field(default_factory=list)
    outage_at: int = 0
    outage_seconds: float = 0.0
    requests: int = 0
    log: list[tuple[float, str, str, str]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._rng, self._down_until = random.Random(self.seed), 0.0

    def choose(self, request: Request) -> str:
        """The fault of this request, or an empty string."""
        self.requests += 1
        kind = ""
        if self.requests == self.outage_at:
            self._down_until = time.monotonic() + self.outage_seconds
        if time.monotonic() < self._down_until:
            kind = "outage"
        elif self.only and request.admits(self.only[0]):
            kind = self.only.pop(0)
        else:
            draw = self._rng.random()
            for name, rate in self.rates.items():
                if request.admits(name):
                    if draw < rate:
                        kind = name
                        break
                    draw -= rate
        if kind:
            when = time.monotonic() - self.began
            self.log.append((round(when, 3), kind, request.method, request.target))
        return kind

    def counts(self) -> Counter[str]:
        """Injections by kind."""
        return Counter(kind for _, kind, _, _ in self.log)


class Proxy:
    """Serves on a port of its own, from a thread of its own, until it is closed.

    Attributes:
        url: its endpoint.
        faults: what it injects; exchanged between runs.
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = parts.hostname, parts.port
        self.faults = Faults()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        start = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result()
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        """Stops serving."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _end(self) -> None:
        self._server.close()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self._exchange(reader, writer):
                pass
        writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its reply; False where the connection is to be reset."""
        request = await _read_request(reader, writer)
        kind = self.faults.choose(request)
        if kind in ("reset", "outage"):
            return False
        if kind in ERRORS:
            writer.write(error(*ERRORS[kind], request.method))
            await writer.drain()
            return True
        if kind in UNDELETED:
            writer.write(undeleted(UNDELETED[kind]))
            await writer.drain()
            return True
        head, body = await self._forward(request)
        if kind == "lost_reply" or (kind == "truncated" and not body):
            return False
        writer.write(head + (body[: len(body) // 2] if kind == "truncated" else body))
        await writer.drain()
        return kind != "truncated"

    async def _forward(self, request: Request) -> tuple[bytes, bytes]:
        """The store's reply: head and body."""
        host, port = self._upstream
        reader, writer = await asyncio.open_connection(host, port, limit=1 << 26)
        writer.write(request.head + request.body)
        head = await reader.readuntil(b"\r\n\r\n")
        length = 0 if request.method == "HEAD" else int(_header(head, b"content-length") or 0)
        body = await reader.readexactly(length)
        writer.close()
        return head, body


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
    head = await reader.readuntil(b"\r\n\r\n")
    method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
    if b"100-continue" in head.lower():
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:")]
        head = b"\r\n".join(lines)
    if b"chunked" in (_header(head, b"transfer-encoding") or b""):
        body = b""
        while True:
            line = await reader.readuntil(b"\r\n")
            body += line + await reader.readexactly(int(line, 16) + 2)
            if int(line, 16) == 0:
                break
    else:
        body = await reader.readexactly(int(_header(head, b"content-length") or 0))
    return Request(method, target, head, body)


def _header(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip().lower()
    return None


def error(status: int, code: str, method: str, message: str = "injected", date: str = "") -> bytes:
    """A whole reply that refuses a request, as S3 does."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/xml"]
    lines += [f"Content-Length: {len(body)}", *([f"Date: {date}"] if date else [])]
    return ("\r\n".join(lines) + "\r\n\r\n" + ("" if method == "HEAD" else body)).encode()


def undeleted(code: str) -> bytes:
    """A whole reply to the deletion of several keys, one of which stays."""
    body = f"<?xml version='1.0'?><DeleteResult><Error><Key>k</Key><Code>{code}</Code></Error>"
    body += "</DeleteResult>"
    head = ["HTTP/1.1 200 OK", "Content-Type: application/xml", f"Content-Length: {len(body)}"]
    return ("\r\n".join(head) + "\r\n\r\n" + body).encode()


@contextlib.contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """A proxy before `upstream`, closed at the end."""
    made = Proxy(upstream)
    try:
        yield made
    finally:
        made.close()
