"""Waiting for a run to get somewhere, and what it has recorded by then."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def records(root: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in root.rglob("_done/*.json")}


def when(condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float) -> None:
    """Waits until something is so, while the run goes on."""
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.005)
