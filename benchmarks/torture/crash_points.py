"""Crash points: the changes to a lake on a local disk, by name, at which a process can be killed.

Python raises an audit event before it creates, links, removes or opens a file, so the program needs
no change. A process that is killed at the event before an effect, and one that is killed at the
event after it, cover both sides of the effect.
"""

from __future__ import annotations

import datetime
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

# Parts of paths and what they hold; the first match counts.
KINDS = (
    ("_probe/", "probe"),
    ("/plan.json", "plan"),
    ("/manifest.json", "manifest"),
    ("/events", "events"),
    ("index/_log", "index entry"),
    ("results/_log", "results entry"),
    ("/_done", "record"),
    ("/_data", "data"),
)
HOLDS = (
    ("results/[^/]+", "plan"),
    ("(segments|queries|results)/[^/]+/[^/]+", "manifest"),
    ("(templates|models)/[^/]+", "manifest"),
)
# All names of a full run, in the order of their first occurrence.
POINTS = (
    "sync folder",
    "create probe",
    "link probe",
    "unlink probe",
    "sync probe",
    "create plan",
    "link plan",
    "unlink plan",
    "sync plan",
    "create events",
    "link events",
    "unlink events",
    "sync manifest",
    "create data",
    "sync data",
    "create record",
    "link record",
    "unlink record",
    "sync record",
    "create manifest",
    "link manifest",
    "unlink manifest",
    "create index entry",
    "link index entry",
    "unlink index entry",
    "sync index entry",
    "create results entry",
    "link results entry",
    "unlink results entry",
    "sync results entry",
)


def watch(root: str, reached: Callable[[str, str], None]) -> None:
    """From now on calls `reached` with name and path of each crash point of this process.

    Args:
        root: the lake's root.
        reached: may end the process.
    """
    inside = os.path.abspath(root) + "/"

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.link", "os.remove") and (name := point(event, arguments, inside)):
            reached(name, str(arguments[0]))

    sys.addaudithook(hook)


def point(event: str, arguments: tuple[Any, ...], inside: str) -> str:
    """The name of a crash point; empty if the event does not change the lake."""
    path = str(arguments[1] if event == "os.link" else arguments[0])
    if not path.startswith(inside):
        return ""
    if event == "os.link":
        verb = "link"
    elif event == "os.remove":
        verb = "unlink"
    elif int(arguments[2]) & os.O_CREAT:
        verb = "create"
    elif os.path.isdir(path):
        verb = "sync"
    else:
        return ""
    return f"{verb} {kind(path, verb)}"


def kind(path: str, verb: str) -> str:
    """The kind of artifact that a path is, or that a folder holds."""
    if verb == "sync" and not path.endswith(("_log", "_done", "_data", "_probe")):
        # In folders of runs and datasets one file is created, in others only folders.
        for folder, name in HOLDS:
            if re.search(f"/{folder}$", path):
                return name
        return "folder"
    return next((name for part, name in KINDS if part in path + "/"), "other")


def end_at(root: str, name: str, number: int, how: int = signal.SIGKILL) -> None:
    """Sends this process a signal when it reaches `name` (any if empty) for the n-th time."""
    _at(root, name, number, lambda: os.kill(os.getpid(), how))


def fill_at(root: str, name: str, number: int, size: int) -> None:
    """From the n-th `name` on no file of this process can exceed `size` bytes: a full disk.

    The kernel answers a write beyond RLIMIT_FSIZE with EFBIG, at any byte and without being root.
    """
    limits = (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    _at(root, name, number, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))


def _at(root: str, name: str, number: int, act: Callable[[], object]) -> None:
    left = [number]

    def reached(reached_name: str, path: str) -> None:
        if not name or reached_name == name:
            left[0] -= 1
            if left[0] == 0:
                act()

    watch(root, reached)


def list_to(root: str, path: str) -> None:
    """Writes each crash point that this process reaches to a file, as a line of name, tab, path."""
    # Opened before events are watched, and outside of the lake.
    file = open(path, "w", buffering=1)  # noqa: SIM115
    watch(root, lambda name, where: print(name, where, sep="\t", file=file))


def shift_clock(seconds: float, back_after: int = 0) -> None:
    """Shifts the clock of this process; after `back_after` readings the shift is reversed."""
    real, off, looks = time.time, [seconds], [0]

    def shift() -> float:
        looks[0] += 1
        if looks[0] == back_after:
            off[0] -= 2 * seconds
        return off[0]

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return super().now(tz) + datetime.timedelta(seconds=shift())

    time.time = lambda: real() + shift()
    datetime.datetime = Shifted  # type: ignore[misc]
