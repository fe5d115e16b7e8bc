"""`export --iceberg`: a generation is one snapshot, made in one commit."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.catalog import load_catalog
from pyiceberg.types import StringType

from nightrank import read_results
from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from nightrank.errors import NightrankError
from nightrank.exports.iceberg import register
from nightrank.generations.results import generation_of, open_lake
from nightrank.storage.log import Entry
from nightrank.storage.store import Store
from tests.support.nights import Nights, catalog_in

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
    """Opens a catalog of this test's own."""
    catalog_in(tmp_path, "nights", monkeypatch)
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
        found = held.scan().to_arrow()
        if table != "changes":  # Arrow tells a nested list's inner field by another name.
            assert found.schema.types == wanted.schema.types
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


def test_columns_of_later_generations_are_added(nights: Nights, catalog: Callable[[], Any]) -> None:
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
    with held.update_schema() as update:  # Somebody has made a text of it.
        update.delete_column("rank")
    with held.update_schema() as update:
        update.add_column("rank", StringType())
    with pytest.raises(NightrankError, match="cannot hold those") as caught:
        register(store, generation_of(store, 1), "search.ranked", "tiny", "ranked", "nights")
    assert caught.value.code == "E_SCHEMA"


class Overtaken(Store):
    """A lake during whose first read for the copies somebody else registers a generation."""

    def __init__(self, url: str, after: int, rival: Callable[[], object]) -> None:
        super().__init__(url)
        self.after, self.rival = after, rival

    def path(self, key: str) -> str:
        self.after -= 1
        if self.after == 0:
            self.rival()
        return super().path(key)


@pytest.mark.parametrize("held_before", [False, True])
def test_who_loses_the_race_changes_nothing_and_leaves_nothing(
    nights: Nights, catalog: Callable[[], Any], tmp_path: Path, held_before: bool
) -> None:
    store = open_lake(nights.root, "tiny")
    one, two = (generation_of(store, number) for number in (1, 2))
    told = ("search.ranked", "tiny", "ranked", "nights")
    if held_before:
        register(store, Entry(2, {**two.body, "write_id": "of the night before"}), *told)
    before = {path.name for path in (tmp_path / "warehouse").rglob("*.parquet")}
    # The list of files asks for every path once; the next to ask is the first copy.
    files = len(one.body["files"]["ranked"])
    slow = Overtaken(store.url, files + 1, lambda: register(store, two, *told))
    with pytest.raises(NightrankError, match="another writer has committed") as caught:
        register(slow, one, *told)
    assert caught.value.code == "E_CONFLICT"
    held = catalog().load_table("search.ranked")
    assert held.current_snapshot().summary["nightrank.write_id"] == two.body["write_id"]
    wanted = rows(read_results(nights.root, "tiny", generation=2).to_table())
    assert rows(held.scan().to_arrow()).equals(wanted)
    new = {path.name for path in (tmp_path / "warehouse").rglob("*.parquet")} - before
    assert new and all(name.startswith("generation-000002") for name in new)


def test_after_a_commit_of_unknown_outcome_no_file_is_removed(
    nights: Nights, catalog: Callable[[], Any], tmp_path: Path
) -> None:
    store = open_lake(nights.root, "tiny")
    told = ("search.ranked", "tiny", "ranked", "nights")
    register(store, generation_of(store, 1), *told)
    database = sqlite3.connect(tmp_path / "catalog.db")
    stop = "BEFORE UPDATE ON iceberg_tables BEGIN SELECT RAISE(ABORT, 'gone away'); END"
    database.execute(f"CREATE TRIGGER broken {stop}")
    before = set((tmp_path / "warehouse").rglob("*.parquet"))
    with pytest.raises(NightrankError, match="gone away") as caught:
        register(store, generation_of(store, 2), *told)
    assert caught.value.code == "E_STORE_RETRY"
    assert set((tmp_path / "warehouse").rglob("*.parquet")) > before
    wanted = rows(read_results(nights.root, "tiny", generation=1).to_table())
    assert rows(catalog().load_table("search.ranked").scan().to_arrow()).equals(wanted)
    database.execute("DROP TRIGGER broken")
    assert register(store, generation_of(store, 2), *told).new


def test_refusals(
    nights: Nights, catalog: Callable[[], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    made = catalog()
    made.create_namespace("search")
    made.create_table("search.theirs", pa.schema([("a", pa.int64())]))
    asked = [nights.config, "--catalog", "nights", "--iceberg"]
    assert "found other rows of 'another owner'" in export(capsys, *asked, "search.theirs", code=2)
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
    nights: Nights, tmp_path: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"warehouse": f"{s3_url}/warehouse", "s3__endpoint": os.environ["AWS_ENDPOINT_URL"]}
    catalog_in(tmp_path, "nights", monkeypatch, **more)
    store = open_lake(nights.root, "tiny")
    for number in (1, 2):
        entry = generation_of(store, number)
        assert register(store, entry, "search.ranked", "tiny", "ranked", "nights").new
    held = load_catalog("nights").load_table("search.ranked")
    assert held.location().startswith("s3://lake/warehouse")
    for number, snapshot in enumerate(held.snapshots(), start=1):
        wanted = rows(read_results(nights.root, "tiny", generation=number).to_table())
        assert rows(held.scan(snapshot_id=snapshot.snapshot_id).to_arrow()).equals(wanted)
