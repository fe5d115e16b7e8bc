"""Seconds and memory of a run's processes by stage, in a file that a resumed run adds to.

The memory of a process is sampled five times a second: `resident` is all mapped memory in RAM,
`own` is the same without mapped files, which the kernel can drop at any time.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nightrank.runtime.progress import Progress
from nightrank.storage.dataset import Manifest

EVERY_SECONDS, SAVE_SECONDS = 0.2, 2.0
# Ray's processes have hundreds of threads, so children are searched seldom; a new one is seen late.
SEARCH_SECONDS = 5.0


def peak_bytes(process: int) -> int:
    """The peak resident memory of a process so far, in bytes."""
    return _status(process)["VmHWM"]


def descendants(process: int) -> Iterator[int]:
    """Ids of all processes that a process started, directly or not."""
    try:
        threads = list(Path(f"/proc/{process}/task").iterdir())
    except OSError:
        return  # It has just ended.
    for thread in threads:
        with contextlib.suppress(OSError):
            for child in map(int, (thread / "children").read_text().split()):
                yield child
                yield from descendants(child)


def _status(process: int) -> dict[str, int]:
    """The memory lines of /proc/<process>/status, in bytes."""
    text = Path(f"/proc/{process}/status").read_text()
    return {name: int(size) << 10 for name, size in re.findall(r"(\w+):\s+(\d+) kB", text)}


def _cpu_seconds(process: int) -> float:
    """CPU seconds of a process, user and system."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Watch(Progress):
    """Progress that records the cost of each stage, adding to what an earlier process recorded.

    Attributes:
        stages: by name, `seconds` (wall), `cpu_seconds` (of this process and all its descendants,
            Ray's too) and the largest `driver` and `worker`, each with `resident` and `own` bytes.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.stages: dict[str, dict[str, Any]] = {}
        if path.exists():
            self.stages = json.loads(path.read_text())
        self._now = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def start(self, stage: str, total: int, done: int) -> None:
        """See `Progress.start`."""
        super().start(stage, total, done)
        figures = self.stages.setdefault(stage, {"seconds": 0.0, "cpu_seconds": 0.0})
        # So that a stage that ends before the first sample has figures too.
        _raise(figures.setdefault("driver", {}), os.getpid())
        figures.setdefault("worker", {"resident": 0, "own": 0})
        self._now = stage

    def finish(self, stage: str, manifest: Manifest, seconds: float) -> None:
        """See `Progress.finish`."""
        super().finish(stage, manifest, seconds)
        self._now = ""

    def close(self) -> None:
        """Ends sampling and saves the figures."""
        self._stopped.set()
        self._thread.join()

    def _sample(self) -> None:
        last = saved = time.monotonic()
        spent: dict[int, float] = {}
        family, searched = [os.getpid()], 0.0
        while not self._stopped.wait(EVERY_SECONDS):
            now, stage = time.monotonic(), self.stages.get(self._now)
            if now - searched > SEARCH_SECONDS:
                family, searched = [os.getpid(), *descendants(os.getpid())], now
            before, spent = spent, {}
            for process in family:
                with contextlib.suppress(OSError, KeyError):
                    spent[process] = _cpu_seconds(process)
                    if stage and process == os.getpid():
                        _raise(stage["driver"], process)
                    elif stage and "_Actor" in Path(f"/proc/{process}/cmdline").read_text():
                        _raise(stage["worker"], process)
            if stage:
                stage["seconds"] += now - last
                stage["cpu_seconds"] += sum(
                    seconds - before.get(process, 0.0) for process, seconds in spent.items()
                )
            last = now
            if now - saved > SAVE_SECONDS:
                saved = now
                self._save()
        self._save()

    def _save(self) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self.stages))
        partial.rename(self._path)


def _raise(peaks: dict[str, int], process: int) -> None:
    status = _status(process)
    sizes = {"resident": status["VmRSS"], "own": status["RssAnon"] + status["RssShmem"]}
    for name, size in sizes.items():
        peaks[name] = max(peaks.get(name, 0), size)
