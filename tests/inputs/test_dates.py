"""Times and days of any unit, zone and year: the right value, or a reject."""

from __future__ import annotations

import csv
import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.input_files import read, reasons

UTC = datetime.UTC
FIRST = datetime.datetime(1, 1, 1, tzinfo=UTC)
LAST = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
TIMES = [
    FIRST,
    datetime.datetime(1600, 2, 29, 12, tzinfo=UTC),
    datetime.datetime(1677, 9, 21, 0, 12, 43, tzinfo=UTC),
    datetime.datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
    datetime.datetime(2024, 7, 1, 6, 30, tzinfo=UTC),
    datetime.datetime(2262, 4, 12, tzinfo=UTC),
    LAST,
]
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=UTC)
SECONDS = [int((time - EPOCH) / datetime.timedelta(seconds=1)) for time in TIMES]
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def parquet(path: Path, column: pa.Array, **settings: Any) -> Path:
    ids = pa.array([str(i) for i in range(len(column))])
    pq.write_table(pa.table({"_id": ids, "text": ids, "at": column}), path, **settings)
    return path


def values(path: Path, declared: str) -> tuple[list[Any], list[tuple[int, str]]]:
    accepted, rejects = read(path, attributes={"at": declared})
    return [row["at"] for row in accepted], reasons(rejects)


@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Kolkata", "-05:00"])
@pytest.mark.parametrize("unit", UNITS)
def test_parquet_timestamps_of_every_unit_and_zone(
    tmp_path: Path, unit: str, zone: str | None
) -> None:
    seconds = SECONDS if unit != "ns" else SECONDS[3:5]
    times = TIMES if unit != "ns" else TIMES[3:5]
    raw = pa.array([s * UNITS[unit] for s in seconds] + [None], pa.int64())
    path = parquet(tmp_path / "c.parquet", raw.cast(pa.timestamp(unit, zone)))
    assert values(path, "timestamp") == ([*times, None], [])
    spelt, rejects = values(path, "string")
    assert not rejects and spelt[-1] is None
    for text, time in zip(spelt, times, strict=False):
        assert text[:19] == f"{time.year:04}-{time:%m-%d %H:%M:%S}"
        assert not text[19:].strip(".0Z")  # Parquet keeps no zone but UTC.
        assert text.endswith("Z") == (zone is not None)


def test_int96_timestamps_as_spark_writes_them(tmp_path: Path) -> None:
    column = pa.array(TIMES, pa.timestamp("us"))
    path = parquet(tmp_path / "c.parquet", column, use_deprecated_int96_timestamps=True)
    assert pq.ParquetFile(path).schema.column(2).physical_type == "INT96"
    assert values(path, "timestamp") == (TIMES, [])
    spelt, _ = values(path, "string")
    assert (spelt[0], spelt[-1]) == ("0001-01-01 00:00:00.000000", "9999-12-31 23:59:59.000000")


@pytest.mark.parametrize("declared", ["timestamp", "string"])
@pytest.mark.parametrize("unit", ["ms", "us"])
def test_times_beyond_any_calendar_are_rejects(tmp_path: Path, unit: str, declared: str) -> None:
    column = pa.array([0, 2**62, -(2**62), None], pa.int64()).cast(pa.timestamp(unit))
    found, rejects = values(parquet(tmp_path / "c.parquet", column), declared)
    assert len(found) == 2 and rejects == [(1, "bad_attribute"), (2, "bad_attribute")]


def test_parquet_days(tmp_path: Path) -> None:
    days = [-719_162, 2_932_896, 0, 2**31 - 1, -(2**31)]
    path = parquet(tmp_path / "c.parquet", pa.array(days, pa.int32()).cast(pa.date32()))
    bad = [(3, "bad_attribute"), (4, "bad_attribute")]
    first, last = datetime.date(1, 1, 1), datetime.date(9999, 12, 31)
    assert values(path, "date32") == ([first, last, EPOCH.date()], bad)
    assert values(path, "string") == ([str(first), str(last), "1970-01-01"], bad)
    assert values(path, "timestamp") == (
        [FIRST, LAST.replace(hour=0, minute=0, second=0), EPOCH],
        bad,
    )
    # As a 64-bit day, and a day before the first one.
    wide = pa.array([first, last, None], pa.date64())
    assert values(parquet(tmp_path / "w.parquet", wide), "date32") == ([first, last, None], [])
    before = parquet(tmp_path / "b.parquet", pa.array([-719_163], pa.int32()).cast(pa.date32()))
    assert values(before, "date32") == ([], [(0, "bad_attribute")])


TEXTS: list[tuple[str, datetime.datetime | None]] = [
    ("0001-01-01T00:00:00Z", FIRST),
    ("0001-01-01 00:00:00", FIRST),
    ("0001-01-01", FIRST),
    ("9999-12-31T23:59:59.999999Z", LAST.replace(microsecond=999_999)),
    ("9999-12-31 23:59:59+00:00", LAST),
    ("2262-04-12T01:00:00+01:00", TIMES[5]),
    ("1677-09-21 00:12:43", TIMES[2]),
    ("9999-12-31 23:59:59-05:00", None),
    ("0001-01-01T00:00:00+05:30", None),
    ("0000-01-01", None),
    ("10000-01-01", None),
    ("12024-01-01T00:00:00Z", None),
    ("2020-01-01T00:00:00.1234567Z", None),
    ("2020-02-30", None),
    ("2020", None),
    ("20200101", None),
    ("1577836800", None),
]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_times_written_as_text(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"c.{suffix}"
    rows = [["_id", "text", "at"], *([str(i), "t", text] for i, (text, _) in enumerate(TEXTS))]
    if suffix == "parquet":
        parquet(path, pa.array([text for text, _ in TEXTS]))
    elif suffix == "jsonl":
        path.write_text(
            "".join(json.dumps(dict(zip(rows[0], row, strict=True))) + "\n" for row in rows[1:])
        )
    else:
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter="," if suffix == "csv" else "\t").writerows(rows)
    bad = [(i, "bad_attribute") for i, (_, time) in enumerate(TEXTS) if time is None]
    assert values(path, "timestamp") == ([time for _, time in TEXTS if time], bad)
    assert values(path, "string") == ([text for text, _ in TEXTS], [])
    days = [(i, text) for i, (text, _) in enumerate(TEXTS) if text == "0001-01-01"]
    found, rejects = values(path, "date32")
    assert found == [FIRST.date()] and [i for i, _ in rejects] == [
        i for i in range(len(TEXTS)) if i != days[0][0]
    ]


def test_json_numbers_are_no_times(tmp_path: Path) -> None:
    rows = [
        {"_id": str(i), "text": "t", "at": at} for i, at in enumerate([0, 1577836800, 2020, 1.5])
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for declared in ("timestamp", "date32"):
        found, rejects = values(tmp_path / "c.jsonl", declared)
        assert found == [] and rejects == [(i, "bad_attribute") for i in range(4)]
