"""Runs a config in this process and reads what it published."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import nightrank
from nightrank.cli.run import execute
from nightrank.cli.terminal import open_job
from nightrank.generations import retention
from nightrank.generations.results import generation_of, open_lake


def run(config: str, *sets: str) -> dict[str, Any]:
    with open_job(config, list(sets), quiet=True) as job:
        return execute(job)


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
