"""`export --iceberg`: a generation is one snapshot, made in one commit."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.catalog import load_catalog

from jobs.cli import app
from jobs.terminal import guarded
from pipelines import iceberg_export, read_results
from pipelines.errors import NightrankError
from pipelines.iceberg_export import register
from pipelines.results import generation_of, open_lake
from tests.analytics.conftest import Nights

KEYS = ["query_id", "rank"]


def export(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    assert guarded(lambda **_: app(["export", *arguments])) == code
    said = capsys.readouterr()
    return said.err if code else said.out


def rows(table: pa.Table, keys: list[str] = KEYS) -> pa.Table:
    """Sorted, in one piece, without metadata."""
    found = table.replace_schema_metadata(None).sort_by([(key, "ascending") for key in keys])
    return found.combine_chunks()


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """A catalog of its own in SQLite, found by name in the environment, as users have theirs."""
    monkeypatch.setenv("PYICEBERG_CATALOG__NIGHTS__URI", f"sqlite:///{tmp_path}/catalog.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__NIGHTS__WAREHOUSE", f"file://{tmp_path}/warehouse")
    # It reads the environment when it is imported.
    fresh = importlib.import_module("pyiceberg.utils.config").Config()
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", fresh)
    return lambda: load_catalog("nights")


def test_two_generations_are_two_snapshots(
    nights: Nights, catalog: Callable[[], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [nights.config, "--iceberg", "search.ranked", "--catalog", "nights"]
    wanted = {n: rows(read_results(nights.root, "tiny", generation=n).to_table()) for n in (1, 2)}
    assert not wanted[1].equals(wanted[2])
    assert "is now generation 1" in export(capsys, *asked, "--generation", "1")
    held = catalog().load_table("search.ranked")
    assert rows(held.scan().to_arrow()).equals(wanted[1])
    reader = held.scan()
    assert "is now generation 2" in export(capsys, *asked)
    now = catalog().load_table("search.ranked")
    assert rows(now.scan().to_arrow()).equals(wanted[2])
    # A reader that held the table, or names the snapshot, still sees the one before, whole.
    assert rows(reader.to_arrow()).equals(wanted[1])
    first, second = now.snapshots()
    assert rows(now.scan(snapshot_id=first.snapshot_id).to_arrow()).equals(wanted[1])
    assert [one.summary["nightrank.generation"] for one in (first, second)] == ["1", "2"]
    body = generation_of(open_lake(nights.root, "tiny"), 2).body
    for key in ("plan_id", "time", "write_id"):
        assert second.summary[f"nightrank.{key}"] == body[key]
    # One swap of the metadata for each: made, filled, exchanged.
    assert len(now.metadata.metadata_log) == 2
    assert second.summary.operation.value == "overwrite"
    assert second.summary["total-records"] == "5000"


def test_the_schema_is_that_of_the_published_rows(
    nights: Nights, catalog: Callable[[], Any]
) -> None:
    store = open_lake(nights.root, "tiny")
    for table, keys in (("ranked", KEYS), ("queries", KEYS[:1]), ("changes", KEYS[:1])):
        register(store, generation_of(store), f"a.b.{table}", "tiny", table, "nights")
        held = catalog().load_table(f"a.b.{table}")
        wanted = read_results(nights.root, "tiny", table).to_table()
        assert held.schema().as_arrow().names == wanted.schema.names
        found = held.scan().to_arrow().replace_schema_metadata(None)
        assert found.schema.remove_metadata().types == wanted.schema.types or table == "changes"
        assert rows(found.cast(wanted.schema), keys).equals(rows(wanted, keys))


def test_the_same_generation_again_is_nothing(
    nights: Nights, catalog: Callable[[], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [nights.config, "--iceberg", "search.ranked", "--catalog", "nights"]
    export(capsys, *asked)
    before = sorted(path for path in (tmp_path / "warehouse").rglob("*") if path.is_file())
    assert "was already generation 2" in export(capsys, *asked)
    after = sorted(path for path in (tmp_path / "warehouse").rglob("*") if path.is_file())
    assert after == before and len(catalog().load_table("search.ranked").snapshots()) == 1


def test_columns_of_later_generations_are_added(
    nights: Nights, catalog: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_lake(nights.root, "tiny")
    register(store, generation_of(store, 1), "search.ranked", "tiny", "ranked", "nights")
    table = catalog().load_table("search.ranked")
    with table.update_schema() as update:  # As if an earlier version had known fewer columns.
        update.delete_column("first_stage_rank")
    register(store, generation_of(store, 2), "search.ranked", "tiny", "ranked", "nights")
    held = catalog().load_table("search.ranked")
    found = held.scan().to_arrow()
    wanted = read_results(nights.root, "tiny", generation=2).to_table()
    assert rows(found.select(wanted.schema.names)).equals(rows(wanted))
    with held.update_schema(allow_incompatible_changes=True) as update:
        update.delete_column("rank")
    with held.update_schema(allow_incompatible_changes=True) as update:
        from pyiceberg.types import StringType

        update.add_column("rank", StringType())
    with pytest.raises(NightrankError, match="do not take") as caught:
        register(store, generation_of(store, 1), "search.ranked", "tiny", "ranked", "nights")
    assert caught.value.code == "E_SCHEMA"


def test_who_loses_the_race_changes_nothing_and_leaves_nothing(
    nights: Nights,
    catalog: Callable[[], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = open_lake(nights.root, "tiny")
    one, two = (generation_of(store, number) for number in (1, 2))
    copy = iceberg_export._copy

    def overtaken(*arguments: Any) -> pa.Schema:
        """The rival's whole registration, between this one's copies and its commit."""
        monkeypatch.setattr(iceberg_export, "_copy", copy)
        schema = copy(*arguments)
        register(store, two, "search.ranked", "tiny", "ranked", "nights")
        return schema

    # Of an empty table, then of one that holds a generation.
    for before in ((), (one,)):
        catalog().drop_table("search.ranked") if before else None
        for entry in before:
            register(store, entry, "search.ranked", "tiny", "ranked", "nights")
        data = {path.name for path in (tmp_path / "warehouse").rglob("*.parquet")}
        monkeypatch.setattr(iceberg_export, "_copy", overtaken)
        mine = one if not before else generation_of(store, 1)
        if before:
            # The current snapshot must not be this very publication.
            register_again = generation_of(store, 2)
            assert register_again.body["write_id"] != mine.body["write_id"]
            mine = type(mine)(mine.generation, {**mine.body, "write_id": "another"})
        with pytest.raises(NightrankError, match="somebody else has committed") as caught:
            register(store, mine, "search.ranked", "tiny", "ranked", "nights")
        assert caught.value.code == "E_CONFLICT"
        held = catalog().load_table("search.ranked")
        wanted = rows(read_results(nights.root, "tiny", generation=2).to_table())
        assert rows(held.scan().to_arrow()).equals(wanted)
        new = {path.name for path in (tmp_path / "warehouse").rglob("*.parquet")} - data
        assert new and all(name.startswith("generation-000002") for name in new)


def test_refusals(
    nights: Nights, catalog: Callable[[], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    made = catalog()
    made.create_namespace("search")
    made.create_table("search.theirs", pa.schema([("a", pa.int64())]))
    asked = [nights.config, "--catalog", "nights", "--iceberg"]
    assert "found other rows of 'somebody else'" in export(capsys, *asked, "search.theirs", code=2)
    export(capsys, *asked, "search.ranked")
    queries = export(capsys, *asked, "search.ranked", "--table", "queries", code=2)
    assert "found ranked rows of 'tiny'" in queries
    assert "namespace.table" in export(capsys, *asked, "ranked", code=2)
    assert "no table 'x'" in export(capsys, *asked, "a.b", "--table", "x", code=2)
    unknown = export(capsys, nights.config, "--iceberg", "a.b", "--catalog", "unknown", code=2)
    assert "cannot open Iceberg catalog 'unknown'" in unknown and unknown.count("\n") == 1


def test_without_the_extra_the_error_says_what_to_install(
    nights: Nights, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyiceberg.catalog", None)  # As Python marks what is missing.
    said = export(capsys, nights.config, "--iceberg", "a.b", code=3)
    assert "pip install 'nightrank[iceberg]'" in said and said.count("\n") == 1


@pytest.mark.s3
def test_a_warehouse_on_s3(
    nights: Nights, catalog: Callable[[], Any], s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYICEBERG_CATALOG__NIGHTS__WAREHOUSE", f"{s3_url}/warehouse")
    fresh = importlib.import_module("pyiceberg.utils.config").Config()
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", fresh)
    store = open_lake(nights.root, "tiny")
    for number in (1, 2):
        entry = generation_of(store, number)
        assert register(store, entry, "search.ranked", "tiny", "ranked", "nights").new
    held = catalog().load_table("search.ranked")
    assert held.location().startswith("s3://lake/warehouse")
    for number, snapshot in enumerate(held.snapshots(), start=1):
        wanted = rows(read_results(nights.root, "tiny", generation=number).to_table())
        assert rows(held.scan(snapshot_id=snapshot.snapshot_id).to_arrow()).equals(wanted)
