"""Lists over several rerank steps, and rejects that come from vectors: workers called directly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nightrank.datasets.fan_out import FanOutFiles, FanOutSettings
from nightrank.runtime.stage import Task
from nightrank.stages import merge, rank, rejects
from nightrank.storage import schemas
from nightrank.storage.dataset import Dataset, Payload, Record
from nightrank.storage.gather import gather
from nightrank.storage.reader import Reader
from nightrank.storage.scatter import Scatter
from nightrank.storage.store import Store

NAN = float("nan")
STEPS = ("fast", "strong")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def commit(store: Store, name: str, files: dict[str, Any]) -> Record:
    return Dataset(store, "input").commit(name, 0, Payload(files), lambda: 0.0)


def of_rows(schema: pa.Schema, rows: list[tuple[Any, ...]]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    arrays = [pa.array(c, t) for c, t in zip(columns, schema.types, strict=True)]
    return pa.table(arrays, schema=schema)


def step(store: Store, number: int, record: Record, file: str, raw: list[tuple]) -> Record:
    """One rank stage of two, on (query, ordinal, raw score); depth 3, then depth 2."""
    scores = Scatter(of_rows(schemas.SCORES, raw), np.zeros(len(raw), np.int64))
    ref = commit(store, f"scores-{number}", {"scores": scores}).files["scores"]
    settings = rank.StepSettings(STEPS, number, (3, 2)[number], 0.0, (2, 0)[number], False)
    last = settings.is_last
    found = gather([ref])[0]
    args = rank.Args(record.files[file], found.packed, record.files.get("lost"))
    if last:
        members = pa.table(
            {
                "query_id": ["q0", "q1"],
                "query": pa.array([0, 1], pa.int32()),
                "vertical": ["", ""],
            }
        )
        files = {"members": members, "rejects": schemas.ROW_REJECTS.empty_table()}
        published = commit(store, "members", files).files
        fan_out = FanOutFiles(published["members"], published["rejects"], {})
        args = replace(args, fan_out=fan_out)
    kept = FanOutSettings(10, (), "x", pa.schema([])) if last else None
    worker = rank.Worker(rank.Settings(settings, kept), 1)
    made = worker(Task("part", args, shared=found.files), Reader(store))
    return commit(store, f"rank-{number}", made.files)


def test_what_an_early_step_could_not_score_is_rejected_by_the_last(store: Store) -> None:
    """Query 0 loses one pair in either step, query 1 all of its pairs in the first."""
    lists = [(0, i, f"d{i}", 1.0 - i / 10, i + 1) for i in range(4)]
    lists += [(1, i, f"d{i}", 1.0 - i / 10, i + 1) for i in range(2)]
    start = commit(store, "start", {"candidates": of_rows(schemas.CANDIDATES, lists)})
    fast = [(0, 0, 5.0), (0, 1, NAN), (0, 2, 7.0), (1, 0, NAN), (1, 1, NAN)]
    first = step(store, 0, start, "candidates", fast)
    second = step(store, 1, first, "pool", [(0, 2, NAN), (0, 0, 9.0)])
    read = Reader(store)
    ranked = read.table(second.files["ranked"])
    assert ranked["doc_id"].to_pylist() == ["d0", "d3"]
    assert ranked["fast_score"].to_pylist() == [5.0, None]
    assert ranked["strong_score"].to_pylist() == [9.0, None]
    status = {
        row["query_id"]: (row["status"], row["reason"], row["num_candidates"])
        for row in read.table(second.files["queries"]).to_pylist()
    }
    assert status == {"q0": ("ranked", "", 2), "q1": ("rejected", "no_finite_score", 0)}
    lost = read.table(second.files["rejects"]).to_pylist()
    assert sorted((row["detail"], row["id"], row["reason"]) for row in lost) == [
        ("q0", "d1", "nonfinite_score"),
        ("q0", "d2", "nonfinite_score"),
        ("q1", "d0", "nonfinite_score"),
        ("q1", "d1", "nonfinite_score"),
    ]


def test_a_query_without_a_vector_is_rejected_whatever_else_it_lacks(store: Store) -> None:
    """Every query_id of the text is told, one with a null attribute too."""
    members = pa.table(
        {
            "query_id": ["a", "b", "c"],
            "query": pa.array([0, 1, 1], pa.int32()),
            "vertical": ["", "", ""],
            "tenant": pa.array([1, None, 3], pa.int64()),
        }
    )
    unusable = of_rows(schemas.ROW_REJECTS, [(1, "zero_embedding")])
    made = commit(store, "queries", {"members": members, "rejects": unusable}).files
    vectors = rejects.VectorRejects("queries", 0, made["rejects"], made["members"])
    args = rejects.Args([], [vectors], [], [])
    table = rejects.Worker(None, 1)(Task("rejects", args), Reader(store)).files["rejects"]
    assert isinstance(table, pa.Table)
    assert [(row["id"], row["reason"]) for row in table.to_pylist()] == [
        ("b", "zero_embedding"),
        ("c", "zero_embedding"),
    ]


def test_partial_lists_are_merged_in_any_number(store: Store) -> None:
    """More groups than are held at once; ties are broken by doc_id descending throughout."""
    count, depth = 2 * merge.FAN_IN + 3, 5
    refs = []
    for group in range(count):
        rows = [(0, group * 10 + i, f"d{group:02d}{i}", (5 - i) / 4) for i in range(3)]
        made = commit(store, f"g{group}", {"candidates": of_rows(schemas.partials(False), rows)})
        refs.append(made.files["candidates"])
    worker = merge.Worker(merge.Settings(depth, head=2, bm25_weight=0.0), 1)
    args = merge.Args(refs, queries=1, carried=None)
    payload = worker(Task("part", args), Reader(store))
    found, scattered = payload.files["candidates"], payload.files["scatter"]
    assert isinstance(found, pa.Table) and isinstance(scattered, Scatter)
    expected = [f"d{group:02d}0" for group in reversed(range(count))][:depth]
    assert found["doc_id"].to_pylist() == expected
    assert scattered.table.num_rows == 2
