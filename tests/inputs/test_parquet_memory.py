"""Parquet is read in bounded memory, however large its row groups and however small its pages."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightrank.errors import NightrankError
from nightrank.inputs import parquet_rows, raw
from nightrank.inputs.formats import read_split
from nightrank.inputs.raw import RawBatch
from nightrank.inputs.splits import Split, list_inputs
from tests.support.input_files import read, source_of

MIB = 1 << 20


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that small files exceed."""
    monkeypatch.setattr(raw, "PIECE_BYTES", MIB)
    monkeypatch.setattr(parquet_rows, "PIECE_BYTES", MIB)
    monkeypatch.setattr(parquet_rows, "BUFFER_BYTES", 64 << 10)
    monkeypatch.setattr(parquet_rows, "PROBE_BYTES", 64 << 10)
    monkeypatch.setattr(parquet_rows, "DICTIONARY_BYTES", 4 * MIB)
    monkeypatch.setattr(parquet_rows, "DELTA_ROWS", 20)


def batches(path: Path) -> Iterator[RawBatch]:
    (file,) = list_inputs(str(path))
    return read_split(Split(file, "whole", 0, file.size), "corpus", source_of("corpus"))


def written(path: Path, texts: list[str], **settings: Any) -> Path:
    ids = [str(i) for i in range(len(texts))]
    pq.write_table(pa.table({"_id": ids, "text": texts}), path, **settings)
    return path


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_dictionary": False, "compression": "zstd"},
        {"use_dictionary": False, "column_encoding": {"text": "DELTA_LENGTH_BYTE_ARRAY"}},
        {"row_group_size": 3000},
    ],
)
def test_what_is_held_does_not_grow_with_a_row_group(
    tmp_path: Path, small: None, settings: dict[str, Any]
) -> None:
    draw = random.Random(5)
    texts = [f"{draw.getrandbits(128):032x}" * 64 for _ in range(20_000)]  # 41 MB in all.
    path = written(tmp_path / "c.parquet", texts, data_page_size=64 << 10, **settings)
    before, rows, held = pa.total_allocated_bytes(), 0, 0
    for batch in batches(path):
        assert batch.columns["text"].to_pylist() == texts[rows : rows + len(batch.rows)]
        rows += len(batch.rows)
        held = max(held, pa.total_allocated_bytes() - before)
    assert rows == 20_000
    assert held < 8 * MIB, f"{held / MIB:.1f} MiB are held"


@pytest.mark.parametrize(
    "settings",
    [
        {"compression": "zstd"},
        {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}},
    ],
)
def test_a_value_that_is_repeated_is_not_decoded_for_thousands_of_rows_at_once(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    # Short values first, so that no mean and no first row tells of the long one.
    texts = ["short"] * 2000 + ["x" * 200_000] * 500
    path = written(tmp_path / "c.parquet", texts, **settings)
    assert path.stat().st_size < MIB
    before, rows, held = pa.total_allocated_bytes(), 0, 0
    for batch in batches(path):
        rows += len(batch.rows)
        held = max(held, pa.total_allocated_bytes() - before)
    assert rows == 2500
    assert held < 16 * MIB, f"{held / MIB:.1f} MiB are held"
    monkeypatch.setattr(raw, "EXPANSION_BYTES", 10 * MIB)
    with pytest.raises(NightrankError, match="suspicious_expansion"):
        read(path)


def test_row_numbers_go_on_through_row_groups_and_empty_ones(tmp_path: Path) -> None:
    schema = pa.schema([("_id", pa.string()), ("text", pa.string())])
    with pq.ParquetWriter(tmp_path / "c.parquet", schema) as writer:
        for ids in (["a", "b"], [], ["c"], [None, "d"]):
            writer.write_table(pa.table({"_id": ids, "text": ["t"] * len(ids)}, schema=schema))
    accepted, rejects = read(tmp_path / "c.parquet")
    assert [(row["row"], row["doc_id"]) for row in accepted] == [
        (0, "a"),
        (1, "b"),
        (2, "c"),
        (4, "d"),
    ]
    assert [row["row"] for row in rejects] == [3]
