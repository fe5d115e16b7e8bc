"""Runs a config in this process and reads what it published."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import nightrank
from nightrank.api import execution
from nightrank.api.execution import Request, open_run
from nightrank.flow.run import Run
from nightrank.generations import retention
from nightrank.generations.results import generation_of, open_lake
from nightrank.runtime.progress import Progress


def opened(config: str, *sets: str, **request: Any) -> contextlib.AbstractContextManager[Run]:
    """A run that is planned and not executed; `request` as `Request` has it."""
    loaded = nightrank.load_config(config, sets)
    return open_run(loaded, Request(**request), Progress(quiet=True))


def execute(opened: Run, first: str | None = None, last: str | None = None) -> dict[str, Any]:
    """Executes an opened run; its JSON line."""
    return execution.execute(opened, first, last).to_dict()


def run(config: str, *sets: str) -> dict[str, Any]:
    """A whole run in this process; its JSON line."""
    return nightrank.run(config, sets, progress=False).to_dict()


def table(root: str | Path, name: str = "ranked", generation: int | None = None) -> pa.Table:
    found = nightrank.read_results(str(root), "tiny", name, generation).to_table()
    order = ["query_id", "rank"] if name == "ranked" else [found.column_names[0]]
    return found.sort_by([(column, "ascending") for column in order])


def digests(root: str | Path, name: str = "tiny") -> dict[str, list[str]]:
    """sha256 of every published file, by table."""
    entry = generation_of(open_lake(str(root), name))
    return {kind: [f["sha256"] for f in files] for kind, files in entry.body["files"].items()}


DAY = 86_400.0


@contextlib.contextmanager
def days_later(monkeypatch: pytest.MonkeyPatch, days: float) -> Any:
    real = retention.clock
    with monkeypatch.context() as patch:
        patch.setattr(retention, "clock", lambda store: real(store) + days * DAY)
        yield
