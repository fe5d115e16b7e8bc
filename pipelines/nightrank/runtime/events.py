"""The events of a run, one JSON object per line: for machines, and to look up afterwards.

Progress, executors and publication call `emit` in the driver. The run that is being recorded
appends each line to a local file at once. New lines are stored in the lake every minute, so that
others see how a run progresses or what a lost driver saw, and all lines when the run ends. A field
is a keyword of `emit`, and nothing else is recorded: no text of a document or a query, no option,
no secret.

A run begins with `run_started` or `run_resumed` and ends with `run_finished`, `run_failed`,
`budget_reached` or `held_back`; a killed run has no last event. Between: `stage_started`,
`stage_finished`, `stage_reused`, `stage_failed`, `slowest_unit`; `unit_retried`, `unit_failed`,
`unit_set_aside`, `worker_lost`, `node_lost`, `start_failed`, `file_damaged`; `index_published`,
`published`.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, TypeAlias

import orjson

from nightrank.config.redaction import redacted
from nightrank.errors import NightrankError
from nightrank.storage.fingerprint import fingerprint
from nightrank.storage.store import Store

Event: TypeAlias = dict[str, Any]
"""One line as JSON: `event`, `time`, `run`, `plan`, and the keywords of `emit` that were passed."""

KEPT_FILES = 50
STORE_EVERY_SECONDS = 60.0
# Errors that are no failure of the run end it with events of their own.
ENDS = {"E_BUDGET": "budget_reached", "E_GATE": "held_back"}
BEGINNINGS = ("run_started", "run_resumed")
ENDINGS = ("run_finished", "run_failed", *ENDS.values())
# The events of a run that has nothing to do: its plan is published and current.
IDLE = {*BEGINNINGS, "stage_reused", "run_finished"}
LOSSES = (
    "unit_retried",
    "unit_failed",
    "unit_set_aside",
    "worker_lost",
    "node_lost",
    "start_failed",
    "file_damaged",
)


class Events:
    """Records the events of one run.

    Args:
        store: its lake.

    Attributes:
        run: this run's own name; names sort by start time.
        plan: the plan's id, once there is one.
        folder: where the plan's own files lie, once that is known.
        path: the local file; None where none can be written.
    """

    def __init__(self, store: Store) -> None:
        now = datetime.datetime.now(datetime.UTC)
        self.run, self.plan = f"{now:%Y%m%dT%H%M%S%fZ}-{uuid.uuid4().hex[:8]}", ""
        self.folder = ""
        self._stored, self._parts, self._stored_at = 0, 0, -STORE_EVERY_SECONDS
        self._lines: list[bytes] = []
        self._happened: set[str] = set()
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._is_open = True
        self._file: TextIO | None = None
        self._store = store
        self.path: Path | None = local_folder(store) / file_name(self.run)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for old in sorted(self.path.parent.glob(file_name("*")))[:-KEPT_FILES]:
                old.unlink(missing_ok=True)
            self._file = open(self.path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115
        except OSError:  # A run does not fail because its events cannot be written.
            self.path = None

    def add(self, event: Event) -> None:
        """Writes one line; empty fields are left out."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        fields = {name: value for name, value in event.items() if value not in (None, "")}
        line = orjson.dumps({"time": now, "run": self.run, "plan": self.plan, **fields})
        with self._lock:
            self._lines.append(line)
            self._happened.add(event["event"])
            if self._file:
                with contextlib.suppress(OSError):
                    self._file.write(line.decode() + "\n")
            wait = self._stored_at + STORE_EVERY_SECONDS - time.monotonic()
            if wait <= 0:
                self._store_part()
            elif self._timer is None:  # The next event may come only after a whole stage.
                self._timer = threading.Timer(wait, self._store_later)
                self._timer.daemon = True
                self._timer.start()

    def _store_later(self) -> None:
        with self._lock:
            self._timer = None
            if self._is_open and self._stored < len(self._lines):
                self._store_part()

    def _store_part(self) -> None:
        self._parts += self._store_lines(f"{self.run}.{self._parts + 1:04d}", self._stored)

    def _store_lines(self, name: str, first: int) -> bool:
        """Stores lines in the lake, under the run's plan; nothing for a run that does nothing."""
        if not self.folder or not self._happened - IDLE:
            return False
        self._stored, self._stored_at = len(self._lines), time.monotonic()
        with contextlib.suppress(NightrankError, OSError):
            data = b"".join(line + b"\n" for line in self._lines[first:])
            self._store.put_if_absent(f"{self.folder}/{file_name(name)}", data)
        return True

    def close(self) -> None:
        """Stores all lines in the lake; where that fails they stay local.

        A run that has nothing to do leaves nothing in the lake.
        """
        with self._lock:
            self._is_open = False
            if self._timer:
                self._timer.cancel()
            self._store_lines(self.run, 0)
        if self._file:
            with contextlib.suppress(OSError):
                self._file.close()


_recorded: list[Events] = []


@contextlib.contextmanager
def recording(events: Events) -> Iterator[Events]:
    """Within this block `emit` adds to these events."""
    _recorded.append(events)
    try:
        yield events
    finally:
        _recorded.remove(events)


def emit(
    event: str,
    *,
    verb: str = "",
    stage: str = "",
    unit: str = "",
    units: int | None = None,
    done: int | None = None,
    attempt: int | None = None,
    node: str = "",
    seconds: float | None = None,
    bytes: int | None = None,
    generation: int | None = None,
    error: BaseException | None = None,
) -> None:
    """Adds an event to the run that is being recorded; does nothing where none is.

    Args:
        event: what happened, e.g. `stage_started`, `unit_retried`, `published`.
        verb: the command, e.g. `nightly`.
        stage: name of the stage.
        unit: name of the shard.
        units: all units of the stage.
        done: how many of them were done before this run.
        attempt: which attempt of the unit it was, from 1.
        node: name of the node.
        seconds: how long it took.
        bytes: of data files.
        generation: number in the log.
        error: a NightrankError adds `code`, `exit`, `what`, `where` and `do`, as its line has them;
            any other exception only its type, because its message may hold anything.
    """
    if not _recorded:
        return
    fields: Event = {
        "event": event,
        "verb": verb,
        "stage": stage,
        "unit": unit,
        "units": units,
        "done": done,
        "attempt": attempt,
        "node": node,
        "seconds": None if seconds is None else round(seconds, 3),
        "bytes": bytes,
        "generation": generation,
    }
    _recorded[-1].add(fields | (_error_fields(error) if error else {}))


def ended(error: BaseException) -> None:
    """Emits the end of a run that an error ended."""
    code = error.code if isinstance(error, NightrankError) else ""
    emit(ENDS.get(code, "run_failed"), error=error)


def _error_fields(error: BaseException) -> Event:
    if isinstance(error, NightrankError) and error.code != "E_BUG":
        what, where = redacted(error.what), redacted(error.where)
        fields: Event = {"what": what, "where": where, "do": error.do}
        return {"code": error.code, "exit": error.exit_code, **fields}
    where, root = getattr(error, "where", ""), error
    while root.__cause__:
        root = root.__cause__
    if isinstance(error, Exception):
        return {"code": "E_BUG", "exit": 70, "what": type(root).__name__, "where": where}
    return {"exit": getattr(error, "exit_code", 130), "what": type(error).__name__}


def file_name(run: str) -> str:
    """The name of a run's file, here and in the lake; `<run>.<number>` is a part of it."""
    return f"events-{run}.jsonl"


def local_folder(store: Store) -> Path:
    """Where this machine keeps a lake's events, within XDG_STATE_HOME or ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    name, lake = store.url.rpartition("/")[2], fingerprint({"lake": store.path("")})
    return Path(state) / "nightrank" / f"{name}-{lake[:8]}"


def events_of(store: Store, folder: str) -> list[list[Event]]:
    """The events of every run of a plan, oldest run first.

    Args:
        store: the lake.
        folder: where the plan's own files lie, `results/<plan>.<epoch>`.

    Returns:
        What is stored. For a run that is still running or was killed: all that it wrote if it ran
        on this machine, else what it had stored.
    """
    names = [n for n in store.files(folder) if n.startswith("events-")]
    whole = {n for n in names if n.count(".") == 1}
    by_file = {name: read_events(store.read(f"{folder}/{name}")) for name in whole}
    plan = folder.rpartition("/")[2].partition(".")[0]
    for path in local_folder(store).glob(file_name("*")):
        if path.name not in by_file:
            with contextlib.suppress(OSError):
                lines = read_events(path.read_bytes())
                by_file[path.name] = [e for e in lines if plan and e["plan"].startswith(plan)]
    for name in sorted(set(names) - whole):
        run = file_name(name.split(".")[0].removeprefix("events-"))
        if run not in whole and not (local_folder(store) / run).exists():
            by_file.setdefault(run, []).extend(read_events(store.read(f"{folder}/{name}")))
    return [by_file[name] for name in sorted(by_file) if by_file[name]]


def read_events(data: bytes) -> list[Event]:
    """The events of a file; an incomplete last line is left out."""
    events: list[Event] = []
    for line in data.splitlines():
        with contextlib.suppress(orjson.JSONDecodeError):
            events.append(orjson.loads(line))
    return events
