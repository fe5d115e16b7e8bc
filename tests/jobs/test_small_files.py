"""Inputs of many small files: rows keep their places, and unchanged files are not read again."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nightrank.cli.verify import verify
from nightrank.generations import planning
from nightrank.generations.results import open_lake
from nightrank.inputs import bundles
from nightrank.inputs.splits import plan_splits
from nightrank.stages import ingest
from nightrank.storage.dataset import Dataset, Manifest
from nightrank.storage.log import Log
from tests.support.collection import Collection
from tests.support.lake import run, table

Write = Callable[..., str]
FILES = 50


@pytest.fixture(autouse=True)
def small_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles of four files on the mean; paths are relative, since they decide where one ends."""
    monkeypatch.setattr(bundles, "MEAN_FILES", 4)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One or two documents a file; empty, bad and repeated ones among them."""
    documents = Collection(tmp_path, FILES + 10, 20).documents
    data = tmp_path / "in"
    data.mkdir()
    for number in range(FILES):
        lines = [json.dumps(documents[number])]
        if number < 10:
            lines.append(json.dumps(documents[FILES + number]))
        if number % 10 == 3:
            lines.insert(1, "{bad")  # A reject on line 1.
        if number % 10 == 4:
            again = {**documents[number - 1], "text": "an older version"}
            lines.append(json.dumps(again))
        (data / f"{number:03d}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    for number in (20, 21, 40):
        (data / f"{number:03d}-empty.jsonl").touch()
    (data / "041-bad.parquet").write_bytes(b"PAR1 and no more")
    return data


@pytest.fixture
def config(folder: Path, write_config: Write) -> Callable[..., str]:
    def write(root: str = "lake", **corpus: Any) -> str:
        plain = {
            "name": "tiny",
            "root": root,
            "corpus": {"path": "in", "on_bad_file": "reject", "reject_budget": 0.5, **corpus},
            "queries": {"path": "queries.jsonl"},
            "encoder": {"model": "toy:bag-of-words"},
            # Word statistics of BM25 are those of the night that trained the index template.
            "retrieve": {"depth": 20, "bm25": {"weight": 0}},
            "rerank": {"model": "toy:overlap", "depth": 20},
            "cluster": {"executor": "serial"},
        }
        return write_config(plain, f"{root}.yaml")

    return write


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that ingest reads, in order."""
    names: list[str] = []
    real = ingest.read_split

    def reading(split: Any, *more: Any) -> Iterator[Any]:
        names.append(Path(split.file.url).name)
        return real(split, *more)

    monkeypatch.setattr(ingest, "read_split", reading)
    return names


def ingested(root: Path) -> Manifest:
    """The ingest of the corpus as the current index generation has it."""
    store = open_lake(str(root), "tiny")
    entry = Log(store, "index").current()
    made = Dataset(store, entry.body["ingest"]).manifest() if entry else None
    assert made is not None
    return made


def test_bundles_change_no_row_and_no_reject(
    config: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = run(config("together"))
    monkeypatch.setattr(bundles, "_ends", lambda split, chance: True)
    alone = run(config("alone"))
    assert len(ingested(tmp_path / "together").shards) < (FILES + 4) / 2
    assert len(ingested(tmp_path / "alone").shards) == FILES + 4
    for name in ("ranked", "rejects"):
        assert table(tmp_path / "together", name) == table(tmp_path / "alone", name)
    assert together["documents"] == alone["documents"]
    rejects = [r for r in table(tmp_path / "together", "rejects").to_pylist() if r["file"]]
    found = [(Path(r["file"]).name, r["row"], r["reason"]) for r in rejects]
    expected = [(f"{number:03d}.jsonl", 1, "bad_json") for number in range(3, FILES, 10)]
    # Of two rows with one id the last by (path, row) counts.
    expected += [(f"{number:03d}.jsonl", 0, "duplicate") for number in range(3, FILES, 10)]
    assert sorted(found) == sorted([*expected, ("041-bad.parquet", -1, "unreadable_file")])


def test_an_unchanged_bundle_is_not_read_again(
    config: Callable[..., str], folder: Path, tmp_path: Path, read: list[str]
) -> None:
    run(config())
    assert {path.name for path in folder.iterdir()} < set(read)  # And the queries' file.
    read.clear()
    (folder / "027.jsonl").write_text(json.dumps({"_id": "new", "text": "river bank"}) + "\n")
    (folder / "048.jsonl").unlink()
    second = run(config())
    made = ingested(tmp_path / "lake")
    assert len(made.shards) - 3 <= made.total("bundles_reused") < len(made.shards)
    assert "027.jsonl" in read and len(read) < FILES / 2
    assert (second["documents_added"], second["documents_removed"]) == (1, 2)
    afresh = run(config("afresh"))
    assert second["documents"] == afresh["documents"]
    for name in ("ranked", "rejects"):
        assert table(tmp_path / "lake", name) == table(tmp_path / "afresh", name)
    read.clear()  # What was copied is copied again.
    (folder / "048.jsonl").write_text(json.dumps({"_id": "newer", "text": "river"}) + "\n")
    run(config())
    assert ingested(tmp_path / "lake").total("bundles_reused") > made.total("bundles_reused") / 2
    verify(config())


def test_another_setting_reads_every_file_again(
    config: Callable[..., str], folder: Path, tmp_path: Path, read: list[str]
) -> None:
    run(config())
    read.clear()
    run(config(max_text_bytes=1000))
    assert {path.name for path in folder.iterdir()} < {*read, "queries.jsonl"}
    assert ingested(tmp_path / "lake").total("bundles_reused") == 0


def test_a_damaged_earlier_shard_is_read_from_the_files(
    config: Callable[..., str], folder: Path, tmp_path: Path, read: list[str]
) -> None:
    run(config())
    store = open_lake(str(tmp_path / "lake"), "tiny")
    damaged = {ref.key for ref in ingested(tmp_path / "lake").files("ids")[:2]}
    for key in damaged:
        path = Path(store.path(key))
        data = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    read.clear()
    (folder / "049.jsonl").write_text(json.dumps({"_id": "new", "text": "river bank"}) + "\n")
    run(config())
    assert "000.jsonl" in read and ingested(tmp_path / "lake").total("bundles_reused") > 0
    run(config("afresh"))
    assert table(tmp_path / "lake") == table(tmp_path / "afresh")


def test_queries_of_unchanged_files_are_not_read_again(
    collection: Collection, tmp_path: Path, write_config: Write, read: list[str]
) -> None:
    asked = tmp_path / "asked"
    asked.mkdir()
    for number, query in enumerate(collection.queries[:40]):
        (asked / f"{number:02d}.jsonl").write_text(json.dumps(query) + "\n")

    def config(root: str) -> str:
        retrieve = {"depth": 20, "bm25": {"weight": 0}}
        plain = collection.config(root, queries={"path": "asked"}, retrieve=retrieve)
        return write_config(plain, f"{root}.yaml")

    run(config("lake"))
    read.clear()
    (asked / "39.jsonl").write_text(json.dumps({"_id": "other", "text": "river"}) + "\n")
    run(config("lake"))
    assert "39.jsonl" in read and "corpus.jsonl" not in read and len(read) < 20
    run(config("afresh"))
    assert table(tmp_path / "lake") == table(tmp_path / "afresh")


def test_unjudged_queries_and_blank_lines_count_for_the_rows_of_later_parts(
    tmp_path: Path, write_config: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = Collection(tmp_path / "data", documents=40, queries=60)
    size = (collection.folder / "queries.jsonl").stat().st_size
    cut = functools.partial(plan_splits, target_bytes=size // 4)
    monkeypatch.setattr(planning, "plan_splits", cut)
    lines = (collection.folder / "queries.jsonl").read_text().splitlines()
    # Several parts end in blank lines, and some have no others.
    lines[30:30] = [""] * size
    (collection.folder / "queries.jsonl").write_text("\n".join([*lines, "{bad"]) + "\n")
    judged = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, q)) for q in collection.qrels[:1])]
    (collection.folder / "qrels.tsv").write_text("\n".join(judged) + "\n")
    path = str(collection.folder / "queries.jsonl")
    queries = {"path": path, "only_judged": True, "reject_budget": 0.5}
    run(write_config(collection.config("lake", queries=queries)))
    rejects = table(tmp_path / "lake", "rejects").to_pylist()
    assert [(r["row"], r["reason"]) for r in rejects if r["kind"] == "queries"] == [
        (len(lines), "bad_json")
    ]
