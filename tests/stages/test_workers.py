"""Workers called directly, with files of a real store: no executor, no models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest

from nightrank.datasets import lists
from nightrank.datasets.fan_out import FanOutFiles, FanOutSettings
from nightrank.errors import NightrankError
from nightrank.models.registry import resolve_bi_encoder, resolve_cross_encoder
from nightrank.runtime.stage import Task
from nightrank.stages import delta, embed, rank, rerank, search
from nightrank.storage import buckets, ordinals, schemas
from nightrank.storage.dataset import Dataset, FileRef, Manifest, Payload, Record
from nightrank.storage.gather import gather
from nightrank.storage.ranges import Range, Ranges
from nightrank.storage.reader import Reader
from nightrank.storage.scatter import Scatter
from nightrank.storage.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def commit(store: Store, name: str, **files: Any) -> Record:
    return Dataset(store, "input").commit(name, 0, Payload(files), lambda: 0.0)


def candidates(lists: list[list[float]]) -> pa.Table:
    """Lists of first-stage scores, best first; doc_id d<query>-<row>, ordinal = row."""
    rows = [
        (q, i, f"d{q}-{i}", s, i + 1) for q, found in enumerate(lists) for i, s in enumerate(found)
    ]
    columns = list(zip(*rows, strict=True))
    fields = zip(columns, schemas.CANDIDATES.types, strict=True)
    return pa.table([pa.array(c, t) for c, t in fields], schema=schemas.CANDIDATES)


def scores(lists: list[list[float]]) -> Scatter:
    rows = [(q, i, s) for q, found in enumerate(lists) for i, s in enumerate(found)]
    columns = list(zip(*reversed(rows), strict=True))
    fields = zip(columns, schemas.SCORES.types, strict=True)
    table = pa.table([pa.array(c, t) for c, t in fields], schema=schemas.SCORES)
    return Scatter(table, np.zeros(table.num_rows, np.int64))


def ranked(
    store: Store, first: list[list[float]], raw: list[list[float]], depth: int
) -> dict[str, pa.Table]:
    return rank_payload(store, first, raw, depth).files  # type: ignore[return-value]


def rank_payload(
    store: Store,
    first: list[list[float]],
    raw: list[list[float]],
    depth: int,
    exact: list[list[list[Any]]] | None = None,
) -> Payload:
    members = pa.table(
        {
            "query_id": [f"q{i}" for i in range(len(first))],
            "query": pa.array(range(len(first)), pa.int32()),
            "vertical": [""] * len(first),
        }
    )
    record = commit(
        store,
        "lists",
        list=candidates(first),
        scores=scores(raw),
        members=members,
        rejects=schemas.ROW_REJECTS.empty_table(),
    )
    found = gather([record.files["scores"]])[0]
    fan_out = FanOutFiles(record.files["members"], record.files["rejects"], {})
    args = rank.Args(record.files["list"], found.packed, None, exact or [], fan_out)
    step = rank.StepSettings(("rerank",), 0, depth, 0.0, 0, False)
    published = FanOutSettings(10, (), "rerank", pa.schema([]))
    worker = rank.Worker(rank.Settings(step, published), 1)
    return worker(Task("part", args, shared=found.files), Reader(store))


def test_a_score_that_is_not_finite_rejects_its_pair_and_no_other(store: Store) -> None:
    made = ranked(store, [[0.9, 0.8, 0.7]], [[1.0, float("nan"), 3.0]], depth=3)
    assert made["ranked"]["doc_id"].to_pylist() == ["d0-2", "d0-0"]
    assert made["ranked"]["rank"].to_pylist() == [1, 2]
    (reject,) = made["rejects"].to_pylist()
    assert (reject["id"], reject["reason"], reject["detail"]) == ("d0-1", "nonfinite_score", "q0")


def test_what_another_precision_changes_is_measured_on_the_first_queries(store: Store) -> None:
    count = 12
    first = [[1 - 0.01 * i for i in range(count)]] * 2
    raw = [[float(count - i) for i in range(count)]] * 2
    other = list(raw[0])
    other[9], other[10] = other[10] - 0.25, other[9]  # the 10th and the 11th change places
    places = list(range(count))
    # Of the first query alone, from two units.
    exact = [[[0] * 5, places[:5], other[:5]], [[0] * 7, places[5:], other[5:]]]
    made = rank_payload(store, first, raw, count, exact)
    assert made.stats["precision"] == {
        "queries": 1,
        "compared": 10,
        "flipped": 1,
        "largest_difference": 1.25,
        "range": 11.0,
    }
    assert "precision" not in rank_payload(store, first, raw, count).stats


def test_a_query_without_one_finite_score_is_rejected_with_its_reason(store: Store) -> None:
    nan = float("nan")
    made = ranked(store, [[0.9, 0.8], [0.5, 0.4]], [[nan, nan], [1.0, 2.0]], depth=2)
    status = {row["query_id"]: row for row in made["queries"].to_pylist()}
    assert (status["q0"]["status"], status["q0"]["reason"]) == ("rejected", "no_finite_score")
    assert (status["q1"]["status"], status["q1"]["num_candidates"]) == ("ranked", 2)


def test_below_the_reranked_head_the_order_stays(store: Store) -> None:
    made = ranked(store, [[0.9, 0.8, 0.7, 0.6]], [[-5.0, 9.0]], depth=2)["ranked"]
    assert made["doc_id"].to_pylist() == ["d0-1", "d0-0", "d0-2", "d0-3"]
    assert made["score"].to_pylist() == sorted(made["score"].to_pylist(), reverse=True)
    assert made["rerank_score"].to_pylist() == [9.0, -5.0, None, None]


@pytest.mark.parametrize("raw", [[[1.0]], [[1.0, 2.0, 3.0]]])
def test_a_lost_or_surplus_score_is_never_passed_over(store: Store, raw: list[list[float]]) -> None:
    with pytest.raises(NightrankError) as caught:
        ranked(store, [[0.9, 0.8]], raw, depth=2)
    assert caught.value.code == "E_ACCOUNTING"


def dropped(store: Store, policy: str, hashes: tuple[bytes, bytes]) -> list[tuple[int, int]]:
    """(split, row) of what does not count; id `x` stands in split 0 row 5 and split 1 row 2."""
    tables = [
        pa.table([["x", "y"], [hashes[0] * 16, b"z" * 16], [5, 6]], schema=schemas.IDS),
        pa.table([["x"], [hashes[1] * 16], [2]], schema=schemas.IDS),
    ]
    refs = [
        commit(store, uuid4().hex, ids=buckets.scatter(table, table["id"])).files["ids"]
        for table in tables
    ]
    args = delta.Args(buckets.parts(enumerate(refs), range(buckets.BUCKETS)))
    worker = delta.Worker(delta.Settings("queries", policy, feed=False), 1)
    content = worker(Task("t", args), Reader(store)).files["dropped"]
    assert isinstance(content, Scatter)
    rows = content.table["row"].to_pylist()
    return list(zip(content.keys.tolist(), rows, strict=True))


def test_the_last_row_of_an_id_counts_for_documents_the_first_for_queries(store: Store) -> None:
    assert dropped(store, "last", (b"a", b"b")) == [(0, 5)]
    assert dropped(store, "first", (b"a", b"b")) == [(1, 2)]
    assert dropped(store, "strict", (b"a", b"a")) == [(0, 5)]


@pytest.mark.parametrize("policy", ["strict", "error"])
def test_policies_that_refuse_name_an_example(store: Store, policy: str) -> None:
    with pytest.raises(NightrankError, match="'x'") as caught:
        dropped(store, policy, (b"a", b"b"))
    assert caught.value.exit_code == 4


def test_vectors_that_are_not_finite_or_zero_never_reach_an_index(store: Store) -> None:
    class Broken:
        """An encoder with one NaN, one zero and one good vector."""

        dimension = 2

        def encode(self, tokens: Any, kind: str) -> np.ndarray:
            return np.array([[np.nan, 1], [0, 0], [1, 2]], dtype=np.float32)

    model = resolve_bi_encoder("toy:bag-of-words", dimension=2)
    worker = embed.Worker(embed.Settings("document", model), 1)
    worker._encoder = Broken()
    tokens = pa.table([pa.array([[1], [2], [3]], pa.list_(pa.int32()))], schema=schemas.TOKENS)
    ref = commit(store, "tokens", tokens=tokens).files["tokens"]
    made = worker(Task("t", embed.Args(ref)), Reader(store)).files
    assert made["vectors"]["row"].to_pylist() == [2]
    assert made["rejects"].to_pylist() == [
        {"row": 0, "reason": "nonfinite_embedding"},
        {"row": 1, "reason": "zero_embedding"},
    ]


def test_a_scatter_holds_the_head_by_document_shard() -> None:
    table = candidates([[0.9, 0.8, 0.7]])
    places = np.concatenate([ordinals.pack(0, shard, np.array([4])) for shard in (2, 0, 1)])
    table = table.set_column(1, "ordinal", pa.array(places))
    content = lists.scatter(table, depth=2)
    assert content.keys.tolist() == [2, 0] and content.table["row"].to_pylist() == [4, 4]


def manifest(files: list[dict[str, FileRef]], **stats: int) -> Manifest:
    shards = [Record(f"part-{i}", 0, f, stats, 0.0) for i, f in enumerate(files)]
    return Manifest("x", "x", 1, {}, tuple(shards))


def test_groups_hold_what_fits_and_units_grow_with_large_jobs() -> None:
    index = manifest([{"index": FileRef("i", 100, "", 0), "rows": FileRef("r", 10, "", 50)}] * 6)
    vectors = manifest([{"vectors": FileRef("v", 90, "", 100)}] * 3)
    segment = search.IndexedSegment(index, vectors)

    def sizes(memory_bytes: int) -> list[int]:
        return [len(group) for group in search.groups({7: segment, 9: segment}, memory_bytes)]

    assert sizes(10**9) == [12]
    assert sizes(400) == [2] * 6
    assert sizes(1) == [1] * 12

    model = resolve_cross_encoder("toy:overlap", max_length_tokens=256)

    def units(pairs: int, wanted: int | str, minute: int = 500_000) -> int:
        part = Range(0, 0, 1, pairs, 0)
        scattered = manifest([{"scatter": FileRef("s", 1, "", pairs, Ranges.of([part]))}])
        tokens = manifest([{"tokens": FileRef("t", 1, "", 262_144)}], tokens=262_144 * 100)
        queries = manifest([{"tokens": FileRef("q", 1, "", 10)}], tokens=100)
        texts = manifest([{"queries": FileRef("q", 1, "", 10)}])
        timed = replace(model, minute_tokens=minute)
        return len(
            rerank.tasks(rerank.Inputs(scattered, texts, queries, {0: tokens}, timed, wanted))
        )

    assert units(500, "auto") == 1
    assert units(100_000, "auto") == rerank.SMALL_JOB_UNITS
    assert units(1_000_000, "auto") == 220
    assert units(10**9, "auto") <= 2 * rerank.AUTO_UNITS
    # A GPU's minute holds a thousand times as much.
    assert units(1_000_000, "auto", 500_000_000) == 2
    assert units(1_000, 11_000) == 10
