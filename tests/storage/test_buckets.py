"""Rows by buckets of their ids: every row in exactly one run, however files and runs are cut."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from nightrank.storage import buckets
from nightrank.storage.dataset import Dataset, Payload
from nightrank.storage.reader import Reader
from nightrank.storage.store import Store


@pytest.mark.parametrize("rows", [0, 1, 1000, 5000, 300_000])
@pytest.mark.parametrize("tasks", [1, 3, 256])
def test_every_row_is_in_one_run(tmp_path: Path, rows: int, tasks: int) -> None:
    store = Store(str(tmp_path))
    table = pa.table({"id": pa.array([f"d{i}" for i in range(rows)], pa.string())})
    content = buckets.scatter(table, table["id"])
    ref = Dataset(store, "x").commit("s", 0, Payload({"ids": content}), lambda: 0.0).files["ids"]
    assert len(ref.ranges) <= max(1, 2 * rows // buckets.ROWS_PER_KEY + 1)
    runs = buckets.runs(tasks * 100, 100)
    assert len(runs) == tasks and [b for run in runs for b in run] == list(range(buckets.BUCKETS))
    if rows > 5000 and tasks == 256:
        runs = runs[:3]  # 256 reads of a large file say no more than three.
    found: list[str] = []
    for run in runs:
        for part in buckets.parts([(0, ref)], run):
            found += part.read(Reader(store), "id")["id"].to_pylist()
    assert len(found) == len(set(found))
    if len(runs) == tasks:
        assert len(found) == rows
