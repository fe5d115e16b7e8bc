"""DuckDB, Polars and pandas read what is published as `read_results` does: rows and types."""

from __future__ import annotations

import datetime
from collections.abc import Callable

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
import pytest

from nightrank import read_results
from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from tests.support.nights import DAYS, Nights

ORDER = {"ranked": ["query_id", "rank"], "queries": ["query_id"]}


def by_duckdb(files: list[str]) -> pa.Table:
    found = duckdb.connect().sql("SELECT * FROM read_parquet($1)", params=[files])
    return found.to_arrow_table()


def by_polars(files: list[str]) -> pa.Table:
    return pl.scan_parquet(files).collect().to_arrow()


def by_pandas(files: list[str]) -> pa.Table:
    frame = pd.concat([pd.read_parquet(file, dtype_backend="pyarrow") for file in files])
    return pa.Table.from_pandas(frame, preserve_index=False)


def plain(table: pa.Table, name: str) -> pa.Table:
    """Sorted and in one piece; Arrow's two widths of strings are one type to whoever reads them."""
    fields = [
        pa.field(f.name, pa.string() if pa.types.is_large_string(f.type) else f.type)
        if not pa.types.is_string_view(f.type)
        else pa.field(f.name, pa.string())
        for f in table.schema
    ]
    cast = table.replace_schema_metadata(None).cast(pa.schema(fields))
    return cast.sort_by([(column, "ascending") for column in ORDER[name]]).combine_chunks()


@pytest.mark.parametrize("reader", [by_duckdb, by_polars, by_pandas])
@pytest.mark.parametrize("name", ["ranked", "queries"])
def test_the_printed_files_are_read_alike(
    nights: Nights,
    capsys: pytest.CaptureFixture[str],
    reader: Callable[[list[str]], pa.Table],
    name: str,
) -> None:
    for number in (1, 2):
        capsys.readouterr()
        asked = ["results", nights.config, "--files", "--table", name, "--generation", str(number)]
        assert guarded(lambda asked=asked, **_: app(asked)) == 0
        files = capsys.readouterr().out.splitlines()
        assert len(files) > 1
        wanted = plain(read_results(nights.root, "tiny", name, number).to_table(), name)
        assert wanted.num_rows == {"ranked": 5000, "queries": 1001}[name]
        assert plain(reader(files), name).equals(wanted)


def duckdb_folder(folder: str) -> pa.Table:
    asked = "SELECT * FROM read_parquet($1, hive_partitioning = true) WHERE run_date = $2"
    day = datetime.date.fromisoformat(DAYS[1])
    found = duckdb.connect().sql(asked, params=[f"{folder}/*/*.parquet", day])
    return found.to_arrow_table()


def polars_folder(folder: str) -> pa.Table:
    day = datetime.date.fromisoformat(DAYS[1])
    found = pl.scan_parquet(f"{folder}/**/*.parquet", hive_partitioning=True)
    return found.filter(pl.col("run_date") == day).collect().to_arrow()


def pandas_folder(folder: str) -> pa.Table:
    only = [("run_date", "==", DAYS[1])]
    frame = pd.read_parquet(folder, dtype_backend="pyarrow", filters=only)
    return pa.Table.from_pandas(frame.astype({"run_date": "string[pyarrow]"}), preserve_index=False)


def pyarrow_folder(folder: str) -> pa.Table:
    found = pads.dataset(folder, format="parquet", partitioning="hive")
    return found.to_table(filter=pads.field("run_date") == DAYS[1])


@pytest.mark.parametrize("reader", [duckdb_folder, polars_folder, pandas_folder, pyarrow_folder])
@pytest.mark.parametrize("name", ["ranked", "queries"])
def test_a_day_of_the_hive_folder_is_that_days_generation(
    nights: Nights, reader: Callable[[str], pa.Table], name: str
) -> None:
    found = reader(str(nights.folder / "analytics" / name))
    assert {str(day) for day in found["run_date"].to_pylist()} == {DAYS[1]}
    wanted = plain(read_results(nights.root, "tiny", name, DAYS[1]).to_table(), name)
    assert plain(found.drop_columns(["run_date"]), name).equals(wanted)


def test_the_date_stands_in_the_path_alone(nights: Nights) -> None:
    folder = nights.folder / "analytics" / "ranked" / f"run_date={DAYS[0]}"
    bare = pads.dataset(str(folder), format="parquet").schema
    assert bare.equals(read_results(nights.root, "tiny").schema) and "run_date" not in bare.names
    types = duckdb.connect().execute(
        "SELECT DISTINCT typeof(run_date) FROM read_parquet($1, hive_partitioning = true)",
        [str(folder.parent / "*" / "*.parquet")],
    )
    assert types.fetchall() == [("DATE",)]
