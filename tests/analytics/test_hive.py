"""`export --hive`: days as partitions, copied once, never mixed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import orjson
import pyarrow.dataset as pads
import pytest

from nightrank import read_results
from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from nightrank.errors import NightrankError
from nightrank.exports.hive import export_hive
from nightrank.generations import retention
from nightrank.generations.results import file_list, generation_of, open_lake
from nightrank.storage.filesystem import connect
from nightrank.storage.store import Store
from tests.support.nights import DAYS, Nights, make_nights


def export(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    assert guarded(lambda **_: app(["export", *arguments])) == code
    said = capsys.readouterr()
    return said.err if code else said.out


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """Digest and time of writing of every file."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            os.stat(path).st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_partition_holds_the_bytes_of_its_generation(nights: Nights) -> None:
    store = open_lake(nights.root, "tiny")
    for number, day in enumerate(DAYS, start=1):
        for table in ("ranked", "queries"):
            paths = file_list(store, generation_of(store, number), table)
            folder = nights.folder / "analytics" / table / f"run_date={day}"
            copied = sorted(folder.iterdir())
            assert [path.read_bytes() for path in copied] == [Path(p).read_bytes() for p in paths]
            assert {os.stat(path).st_nlink for path in copied} == {1}  # Copies, not links.
    done = orjson.loads(
        (nights.folder / f"analytics/_exports/run_date={DAYS[1]}/_SUCCESS").read_bytes()
    )
    assert done["generation"] == 2 and done["experiment"] == "tiny"
    assert sum(file["rows"] for file in done["files"]["ranked"]) == 5000


def test_again_it_writes_nothing_and_a_new_night_adds_its_day(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nights, target = make_nights(tmp_path, str(tmp_path / "lake")), tmp_path / "out"
    nights.publish(0, DAYS[0])
    assert "1 day(s) exported, 0 already there" in export(
        capsys, nights.config, "--hive", str(target)
    )
    before = contents(target)
    assert "0 day(s) exported, 1 already there" in export(
        capsys, nights.config, "--hive", str(target)
    )
    assert contents(target) == before
    nights.publish(1, DAYS[1])
    assert f"generation 2 -> run_date={DAYS[1]}" in export(
        capsys, nights.config, "--hive", str(target)
    )
    after = contents(target)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 4


def test_what_was_exported_outlives_collection_and_a_collected_day_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nights, target = make_nights(tmp_path, str(tmp_path / "lake")), tmp_path / "out"
    for number, day in enumerate(DAYS):
        nights.publish(number, day)
    export(capsys, nights.config, "--hive", str(target))
    rows = pads.dataset(str(target / "ranked"), partitioning="hive").count_rows()
    real = retention.clock
    monkeypatch.setattr(retention, "clock", lambda store: real(store) + 9 * 86_400)
    assert retention.collect(open_lake(nights.root, "tiny"), retain=1, min_age_days=7)
    assert pads.dataset(str(target / "ranked"), partitioning="hive").count_rows() == rows == 300
    assert "0 day(s) exported, 2 already there" in export(
        capsys, nights.config, "--hive", str(target)
    )
    late = export(capsys, nights.config, "--hive", str(tmp_path / "late"))
    assert (
        "1 day(s) exported, 0 already there" in late
        and f"1 day(s) up to {DAYS[0]} not exported" in late
    )
    named = [nights.config, "--hive", str(tmp_path / "late"), "--generation", "1"]
    assert "generation 1 has expired" in export(capsys, *named, code=7)


def test_a_day_that_holds_another_generation_is_exchanged_only_when_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nights, target = make_nights(tmp_path, str(tmp_path / "lake")), tmp_path / "out"
    nights.publish(0, DAYS[0])
    export(capsys, nights.config, "--hive", str(target))
    before = contents(target)
    nights.publish(1, DAYS[0])
    nights.publish(2, DAYS[1])
    said = export(capsys, nights.config, "--hive", str(target), code=6)
    assert "expected generation 2, found 1" in said and "--replace" in said
    after = contents(target)
    assert {name: after[name] for name in before} == before
    assert len(list((target / "ranked").iterdir())) == 2  # The other day was exported.
    export(capsys, nights.config, "--hive", str(target), "--replace")
    wanted = read_results(nights.root, "tiny", generation=2).to_table()
    found = pads.dataset(str(target / f"ranked/run_date={DAYS[0]}"), format="parquet").to_table()
    assert found.equals(wanted)


def begin(nights: Nights, target: Path, *names: str) -> None:
    """What an export that was killed has left: some of its files."""
    for name in names:
        (target / name).parent.mkdir(parents=True)
        (target / name).write_bytes((nights.folder / "analytics" / name).read_bytes())


CLAIM = f"_exports/run_date={DAYS[0]}/claim.json"
PART = f"ranked/run_date={DAYS[0]}/part-00000.parquet"


@pytest.mark.parametrize("left", [[CLAIM], [CLAIM, PART]], ids=["claim", "claim and a file"])
def test_an_interrupted_export_is_finished_by_the_same_command(
    nights: Nights, tmp_path: Path, capsys: pytest.CaptureFixture[str], left: list[str]
) -> None:
    whole, target = nights.folder / "analytics", tmp_path / "out"
    begin(nights, target, *left)
    assert "2 day(s) exported" in export(capsys, nights.config, "--hive", str(target))
    digests = [{name: of[0] for name, of in contents(p).items()} for p in (whole, target)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("name", "said"), [("part-00000.parquet", "found others"), ("x.parquet", "others among them")]
)
def test_a_partition_with_a_file_of_somebody_else_is_not_committed(
    nights: Nights, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    begin(nights, tmp_path, CLAIM, PART)
    (tmp_path / PART).with_name(name).write_bytes(b"of somebody else")
    assert said in export(capsys, nights.config, "--hive", str(tmp_path), code=6)
    assert not (tmp_path / CLAIM).with_name("_SUCCESS").exists()
    export(capsys, nights.config, "--hive", str(tmp_path), "--replace")
    again = contents(nights.folder / "analytics")
    assert {k: v[0] for k, v in contents(tmp_path).items()} == {k: v[0] for k, v in again.items()}


def test_refusals(nights: Nights, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for inside in ("tiny/results", "tiny", "", "."):
        folder = str(Path(nights.root) / inside)
        assert "outside the lake" in export(capsys, nights.config, "--hive", folder, code=2)
    assert not (Path(nights.root) / "ranked").exists()
    assert "expected one form" in export(capsys, nights.config, code=2)
    both = ("--hive", str(tmp_path), "--iceberg", "a.b")
    assert "expected one form" in export(capsys, nights.config, *both, code=2)
    store, target = open_lake(nights.root, "tiny"), Store(str(tmp_path / "shared"))
    export_hive(store, target, "tiny", generation=1)
    with pytest.raises(NightrankError, match="expected experiment 'other', found 'tiny'"):
        export_hive(store, target, "other", generation=2)


@pytest.mark.s3
def test_on_s3_as_on_a_local_disk(nights: Nights, s3_url: str) -> None:
    store, target = open_lake(nights.root, "tiny"), Store(f"{s3_url}/analytics")
    assert export_hive(store, target, "tiny", generation=1).written == {DAYS[0]: 1}
    assert export_hive(store, target, "tiny").written == {DAYS[1]: 2}
    assert export_hive(store, target, "tiny").present == list(DAYS)
    filesystem, path = connect(f"{s3_url}/analytics/ranked")
    found = pads.dataset(path, filesystem=filesystem, format="parquet", partitioning="hive")
    local = pads.dataset(str(nights.folder / "analytics/ranked"), partitioning="hive")
    order = [(name, "ascending") for name in ("run_date", "query_id", "rank")]
    assert found.to_table().sort_by(order).equals(local.to_table().sort_by(order))
    nights_of_one_day = f"_exports/run_date={DAYS[0]}"
    assert set(target.files(nights_of_one_day)) == {"claim.json", "_SUCCESS"}
    key = f"{nights_of_one_day}/claim.json"
    filesystem.pipe_file(f"{target.place[1]}/{key}", b'{"generation": 7}')
    filesystem.rm_file(f"{target.place[1]}/{nights_of_one_day}/_SUCCESS")
    with pytest.raises(NightrankError, match="found 7"):
        export_hive(store, target, "tiny")
    assert export_hive(store, target, "tiny", replace=True).written == {DAYS[0]: 1}
