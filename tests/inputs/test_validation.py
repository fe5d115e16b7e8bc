from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from nightrank.config.schema import ColumnType
from nightrank.errors import NightrankError
from nightrank.inputs.raw import Rejects, checked_batch
from nightrank.inputs.validation import (
    accepted_schema,
    corpus_schema,
    queries_schema,
    rejects_schema,
    validate,
)
from nightrank.storage.hashes import id_hash
from tests.support.input_files import read, reasons, source_of, write

UTC = datetime.UTC


def check(kind: str = "corpus", **columns: Any) -> tuple[list[Any], list[Any]]:
    settings_ = columns.pop("settings", {})
    arrays = {
        name: value if isinstance(value, pa.Array) else pa.array(value, pa.string())
        for name, value in columns.items()
    }
    rows = np.arange(len(next(iter(arrays.values()))), dtype=np.int64)
    batch = checked_batch(arrays, rows, Rejects(), "file.jsonl")
    accepted, rejects = validate(batch, kind, source_of(kind, **settings_))
    assert accepted.schema == accepted_schema(kind, source_of(kind, **settings_))
    assert rejects.schema == rejects_schema()
    assert accepted.num_rows + rejects.num_rows == len(rows)
    return accepted.to_pylist(), rejects.to_pylist()


def test_every_reason_of_a_row() -> None:
    ids = [None, "", "x" * 513, "d", "e", "f", "g", "ö" * 256, "i"]
    texts = ["t", "t", "t", None, "t" * 101, "", " \n\u3000", "t", "t"]
    titles = [None, None, None, None, None, None, None, None, "t" * 101]
    accepted, rejects = check(
        doc_id=ids, text=texts, title=titles, settings={"max_text_bytes": 100}
    )
    assert [(r["row"], r["title"]) for r in accepted] == [(7, "")]
    names = ["null_id", "empty_id", "id_too_long", "null_text", "too_large"]
    names += ["empty_text", "empty_text", "too_large"]
    assert reasons(rejects) == list(zip([0, 1, 2, 3, 4, 5, 6, 8], names, strict=True))
    assert [r["id"] for r in rejects] == [None, "", None, "d", "e", "f", "g", "i"]
    assert "513" in rejects[2]["detail"] and "101" in rejects[4]["detail"]


def test_no_reject_repeats_a_text() -> None:
    secret = "tell nobody " * 20
    _, rejects = check(
        doc_id=["a", "b"], text=[secret, "t"], title=["", secret], settings={"max_text_bytes": 9}
    )
    assert len(rejects) == 2 and not any("nobody" in str(r) for r in rejects)


def test_strange_ids_and_control_characters_are_data() -> None:
    ids = ["a/b", "..", "a\nb", "\0", " ", "'; DROP TABLE"]
    accepted, rejects = check(doc_id=ids, text=["\0", "\x1b[0m", "a", "b", "c", "\u202e"])
    assert [r["doc_id"] for r in accepted] == ids and not rejects


def test_empty_texts_can_be_kept_for_documents_only() -> None:
    accepted, rejects = check(
        doc_id=["a", "b", "c"], text=["", "  ", None], settings={"empty_text": "keep"}
    )
    assert [r["text"] for r in accepted] == ["", "  "]
    assert reasons(rejects) == [(2, "null_text")]
    assert reasons(check("queries", query_id=["a"], text=[" "])[1]) == [(0, "empty_text")]


def test_error_stops_at_the_first_bad_row() -> None:
    with pytest.raises(NightrankError) as error:
        check(doc_id=["a", None, ""], text=["t"] * 3, settings={"on_bad_row": "error"})
    assert error.value.code == "E_SCHEMA"
    assert "null_id" in error.value.what and error.value.where == "file.jsonl, row 1"


def test_content_hash_follows_content_alone() -> None:
    settings_ = {"attributes": {"n": "int64"}}

    def hashes(titles: list[Any], texts: list[str], numbers: list[Any]) -> list[bytes]:
        ids = [str(i) for i in range(len(texts))]
        columns = {"title": titles, "text": texts, "n": pa.array(numbers, pa.int64())}
        rows, _ = check(doc_id=ids, settings=settings_, **columns)
        return [row["content_hash"] for row in rows]

    found = hashes(
        ["a", "a", None, "", "ab", "a", "a", "a"],
        ["b", "b", "ab", "ab", "c", "bc", "b", "b"],
        [1, 1, 1, 1, 1, 1, 2, None],
    )
    assert found[0] == found[1] and found[2] == found[3]
    assert len(set(found)) == 6
    assert found[0] == hashlib.blake2b(b"title=1:a,text=1:b,n=1:1", digest_size=16).digest()


def test_query_hash_is_of_the_exact_text() -> None:
    accepted, _ = check("queries", query_id=["1", "2"], text=["a", "a "], vertical=[None, "law"])
    for row in accepted:
        expected = hashlib.blake2b(row["text"].encode(), digest_size=16).digest()
        assert row["query_hash"] == expected
    assert [row["vertical"] for row in accepted] == ["", "law"]


def test_schemas() -> None:
    source = source_of("corpus", attributes={"when": "timestamp"})
    assert corpus_schema(source).names == ["doc_id", "title", "text", "content_hash", "row", "when"]
    assert corpus_schema(source).field("when").type == pa.timestamp("us", "UTC")
    names = ["query_id", "text", "query_hash", "vertical", "row"]
    assert queries_schema(source_of("queries")).names == names


GOOD: list[tuple[ColumnType, Any, Any]] = [
    ("string", "x", "x"),
    ("int64", 5, 5),
    ("int64", "5", 5),
    ("float64", 1.5, 1.5),
    ("float64", 2, 2.0),
    ("bool", True, True),
    ("bool", "false", False),
    ("timestamp", "2024-01-02T03:04:05Z", datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)),
    ("timestamp", "2024-01-02 03:04:05+02:00", datetime.datetime(2024, 1, 2, 1, 4, 5, tzinfo=UTC)),
    ("timestamp", "2024-01-02", datetime.datetime(2024, 1, 2, tzinfo=UTC)),
    ("date32", "2024-01-02", datetime.date(2024, 1, 2)),
    ("int64", None, None),
]
BAD: list[tuple[ColumnType, Any]] = [
    ("int64", "five"),
    ("int64", "0x10"),
    ("int64", 1.5),
    ("int64", 2**63),
    ("bool", "maybe"),
    ("timestamp", "yesterday"),
    ("timestamp", 1_700_000_000),
    ("date32", "2024-13-01"),
    ("string", {"a": 1}),
    ("string", [1]),
]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize(("declared", "value", "expected"), GOOD)
def test_attributes_are_cast(
    tmp_path: Path, suffix: str, declared: ColumnType, value: Any, expected: Any
) -> None:
    path = write(tmp_path / f"c.{suffix}", [{"_id": "a", "text": "t", "x": value}])
    ((row,), rejects) = read(path, attributes={"x": declared})
    assert row["x"] == expected and not rejects


@pytest.mark.parametrize(("declared", "value"), BAD)
def test_attributes_that_cannot_be_cast(tmp_path: Path, declared: ColumnType, value: Any) -> None:
    rows = [{"_id": str(i), "text": "t", "x": None} for i in range(9)]
    rows[4]["x"] = value
    accepted, rejects = read(write(tmp_path / "c.jsonl", rows), attributes={"x": declared})
    assert len(accepted) == 8 and reasons(rejects) == [(4, "bad_attribute")]


def test_parquet_attributes(tmp_path: Path) -> None:
    times = pa.array([1_500, 1_000], pa.timestamp("ns"))
    table = pa.table({"_id": ["a", "b"], "text": ["t", "u"], "when": times, "n": [1.0, 2.0]})
    pq.write_table(table, tmp_path / "c.parquet")
    attributes: dict[str, Any] = {"when": "timestamp", "n": "int64"}
    accepted, rejects = read(tmp_path / "c.parquet", attributes=attributes)
    assert [r["n"] for r in accepted] == [2] and reasons(rejects) == [(0, "bad_attribute")]
    with pytest.raises(NightrankError, match="E_SCHEMA.*expected date32"):
        read(tmp_path / "c.parquet", attributes={"n": "date32"})


def test_id_hash_is_xxh3_of_the_bytes() -> None:
    ids = pa.array(["skipped", "", "a", "ä/..", "x" * 600])
    expected = [xxhash.xxh3_64_intdigest(i.as_py().encode()) for i in ids[1:]]
    assert id_hash(ids.slice(1)).tolist() == expected
    assert id_hash(ids.slice(1).cast(pa.large_string())).tolist() == expected
    assert id_hash(pa.chunked_array([ids[1:3], ids[3:]])).tolist() == expected
    assert id_hash(pa.array([], pa.string())).dtype == np.uint64


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=2),
    st.just("2024-05-06T07:08:09Z"),
)
objects = st.dictionaries(st.sampled_from(["_id", "text", "title", "x", "y"]), values)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(objects, values), max_size=20),
    st.sampled_from(["string", "int64", "float64", "bool", "timestamp", "date32"]),
)
def test_rows_in_are_accepted_or_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], declared: ColumnType
) -> None:
    path = tmp_path_factory.mktemp("v") / "c.jsonl"
    first = {"_id": "first", "text": "t", "x": None}
    path.write_text("\n".join(json.dumps(row) for row in [first, *rows]))
    accepted, rejects = read(path, attributes={"x": declared}, max_text_bytes=6)
    assert len(accepted) + len(rejects) == len(rows) + 1
    assert sorted(r["row"] for r in accepted + rejects) == list(range(len(rows) + 1))
    # A row's fate never depends on its neighbours.
    alone = []
    for row in rows:
        path.write_text("\n".join(json.dumps(r) for r in (first, row)))
        good, bad = read(path, attributes={"x": declared}, max_text_bytes=6)
        alone += [r for r in good + bad if r["row"] == 1]
    together = sorted(accepted + rejects, key=lambda r: r["row"])[1:]
    assert [{**r, "row": 1} for r in together] == alone
