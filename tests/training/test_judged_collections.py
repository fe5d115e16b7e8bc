"""Collections for training: rows that are read, and rows that are refused in one line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightrank.errors import NightrankError
from nightrank.training.judged_collections import read_rows

ROWS = [
    {"_id": "a", "title": "A", "text": "a line\u2028of text", "url": "x"},
    {"_id": "b", "title": None, "text": None},
]
READ = [
    {"_id": "a", "title": "A", "text": "a line\u2028of text"},
    {"_id": "b", "title": None, "text": ""},
]


def test_parquet_and_jsonl_give_the_same_rows(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode()
    (tmp_path / "rows.jsonl").write_bytes(lines + b"\n\n")
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    for name in ("rows.jsonl", "rows.jsonl.gz", "rows.parquet"):
        assert read_rows(tmp_path / name) == READ, name


@pytest.mark.parametrize(
    "row", [{"_id": "a"}, {"id": "a", "text": "b"}, {"_id": 7, "text": "b"}, ["PRIVATE"], 3]
)
def test_a_row_without_id_or_text_is_refused_without_its_content(tmp_path: Path, row: Any) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(NightrankError, match=r"rows\.jsonl, row 2") as caught:
        read_rows(file)
    assert caught.value.exit_code == 2 and "PRIVATE" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(b"x")[:12],
        gzip.compress(b"x")[:10] + b"\xff" * 9,
        b"no gzip",
        gzip.compress(b"{"),
    ],
    ids=["cut", "garbage", "no gzip", "no json"],
)
def test_a_damaged_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(data)
    with pytest.raises(NightrankError, match="cannot read rows"):
        read_rows(tmp_path / "rows.jsonl.gz")
