"""Damaged artifacts: each kind, cut at 0, 1, half and n - 1 bytes and with 200 bits turned.

All of it is detected before use: E_CORRUPT, or the unit is made again where it is unpublished. Of a
file that is read in part, bytes that are never read do no harm: what is returned is the same.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from nightrank.errors import NightrankError
from nightrank.generations.results import open_lake, read_results
from nightrank.models.folders.files import folder_digest
from nightrank.models.protocols import ResolvedModel
from nightrank.models.registry import load_cross_encoder
from nightrank.retrieval import faiss_files
from nightrank.storage.dataset import Dataset, FileRef
from nightrank.storage.log import Log
from nightrank.storage.reader import Reader
from nightrank.storage.sealed import unseal
from nightrank.storage.store import Store
from tests.support.collection import Collection
from tests.support.lake import run, table

FLIPS = 200
# Every kind of file that a run writes, by how it is read.
TABLES = [
    "vectors",
    "tokens",
    "documents",
    "ranked",
    "queries",
    "members",
    "rejects",
    "rows",
    "bounds",
    "candidates",
    "pool",
    "changes",
    "per_query",
    "store",
    "postings",
    "statistics",
]
SCATTERED = ["ids", "rows", "scatter", "lists", "scores", "kept"]
INDEXES = {"index": "segments/*/build_index-*", "template": "templates/*"}
EMPTY_OR_SHOWN = {"dropped.scatter", "tombstones.scatter", "report.html"}
SMALL = {"document_shard_rows": 100, "query_shard_rows": 15}


def damages(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Every damage of some bytes, with what it is."""
    for size in (0, 1, len(data) // 2, len(data) - 1):
        yield f"cut at {size} of {len(data)}", data[:size]
    rng = random.Random(len(data))
    for _ in range(FLIPS):
        at, bit = rng.randrange(len(data)), rng.randrange(8)
        turned = bytearray(data)
        turned[at] ^= 1 << bit
        yield f"bit {bit} of byte {at} of {len(data)}", bytes(turned)


def missed(path: Path, use: Callable[[], Any], unused: Any = None, code: int = 7) -> list[str]:
    """Damages that `use` does not tell; `unused` may come back where bytes are not read."""
    data = path.read_bytes()
    found = []
    for what, damaged in damages(data):
        path.write_bytes(damaged)
        try:
            value = use()
        except NightrankError as error:
            named = str(path.parent if code == 3 else path) in error.where
            if error.exit_code != code or not named:
                found.append(f"{what}: {error}")
        else:
            if unused is None or value != unused:
                found.append(f"{what}: used")
    path.write_bytes(data)
    assert unused is None or use() == unused
    return found


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("lake")
    made = Collection(folder / "in", documents=300, queries=30)
    import json

    config = folder / "config.yaml"
    config.write_text(json.dumps(made.config(folder / "lake", layout=SMALL)))
    run(str(config))
    return folder / "lake", str(config)


@pytest.fixture
def store(lake: tuple[Path, str]) -> Store:
    return open_lake(str(lake[0]), "tiny")


def one(store: Store, name: str, extension: str = "parquet") -> FileRef:
    """The first committed file of this name that has rows."""
    root = Path(store.path("."))
    for path in sorted(root.rglob("manifest.json")):
        manifest = Dataset(store, str(path.parent.relative_to(root))).manifest()
        assert manifest is not None
        for ref in (ref for shard in manifest.shards for ref in shard.files.values()):
            if f".{name}-" in ref.key and ref.key.endswith(extension) and ref.rows:
                return ref
    raise AssertionError(f"no file of {name}")


def test_every_kind_of_file_is_damaged_here(store: Store) -> None:
    files = Path(store.path(".")).rglob("_data/*")
    parts = [path.name.rsplit(".", 2) for path in files]
    found = {f"{name.rpartition('-')[0]}.{kind}" for _, name, kind in parts}
    known = {f"{name}.parquet" for name in TABLES} | {f"{name}.scatter" for name in SCATTERED}
    assert found - EMPTY_OR_SHOWN == known | {f"{name}.faiss" for name in INDEXES}


@pytest.mark.parametrize("name", sorted(set(TABLES) - {"rejects"}))
def test_whole_tables(store: Store, name: str) -> None:
    ref = one(store, name)
    assert not missed(Path(store.path(ref.key)), lambda: Reader(store).table(ref))


@pytest.mark.parametrize("name", ["documents", "rows"])
def test_tables_read_in_part(store: Store, name: str) -> None:
    ref = one(store, name)

    def use() -> Any:
        return [(n, t.to_pydict()) for n, t in Reader(store).slices(ref, 0, ref.rows)]

    assert not missed(Path(store.path(ref.key)), use, use())


@pytest.mark.parametrize("name", SCATTERED)
def test_scattered_tables(store: Store, name: str) -> None:
    ref = one(store, name, "scatter")
    whole = Reader(store).ranges(ref, ref.ranges)
    assert whole.num_rows == ref.rows

    def use() -> Any:
        return [Reader(store).range(ref, part).to_pydict() for part in ref.ranges]

    assert not missed(Path(store.path(ref.key)), use)


@pytest.mark.parametrize("name", INDEXES)
def test_indexes(store: Store, name: str) -> None:
    root = Path(store.path("."))
    index = next(root.glob(INDEXES[name]))
    manifest = Dataset(store, str(index.relative_to(root))).manifest()
    assert manifest is not None
    ref = manifest.files(name)[0]
    use = lambda: faiss_files.read(Reader(store).local(ref))  # noqa: E731
    assert not missed(Path(store.path(ref.key)), use)


def test_manifests_plans_and_log_entries(store: Store, lake: tuple[Path, str]) -> None:
    root = Path(store.path("."))
    for channel in ("index", "results"):
        entry = next((root / channel / "_log").iterdir())
        assert not missed(entry, Log(store, channel).current)
    plan = next(root.glob("results/*/plan.json"))
    key = str(plan.relative_to(root))
    assert not missed(plan, lambda: unseal(store.read(key), store.path(key), "plan anew"))
    path = next(root.glob("results/*/rank-*/manifest.json"))
    dataset = Dataset(store, str(path.parent.relative_to(root)))
    assert not missed(path, dataset.manifest)


def test_a_damaged_record_is_superseded(store: Store) -> None:
    root = Path(store.path("."))
    path = sorted(root.glob("segments/*/segment-*/_done/*.json"))[1]
    dataset = Dataset(store, str(path.parent.parent.relative_to(root)))
    shard = path.name.partition(".a")[0]
    data = path.read_bytes()
    whole = dataset.records()
    assert shard in whole and len(whole) == 3
    for what, damaged in damages(data):
        path.write_bytes(damaged)
        assert dataset.records() == {k: r for k, r in whole.items() if k != shard}, what
        assert dataset.next_attempts()[shard] == 1
    path.write_bytes(data)


def test_model_files(tmp_path: Path) -> None:
    """A worker compares a folder with the digest of planning before any of it is parsed."""
    (tmp_path / "config.json").write_text('{"num_labels": 1, "model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)) * 4)
    planned = ResolvedModel(
        model=str(tmp_path),
        role="cross_encoder",
        family="sequence_classification",
        path=str(tmp_path),
        digest=folder_digest(tmp_path),
        precision="fp32",
        max_length_tokens=64,
        tokenizer="utf8",
    )
    for name in ("config.json", "model.safetensors"):
        assert not missed(tmp_path / name, lambda: load_cross_encoder(planned, 1), code=3)


def test_a_remote_file_that_was_cached_is_looked_at_again(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    store = Store(f"{s3_url}/cached")
    size, sha256 = store.write("x/_data/a.bin", lambda file: file.write(b"some index"))
    ref = FileRef("x/_data/a.bin", size, sha256, 0)
    cached = Path(Reader(store).local(ref))
    assert cached.is_relative_to(tmp_path)
    cached.write_bytes(b"other index")
    assert Path(Reader(store).local(ref)).read_bytes() == b"some index"
    cached.parent.chmod(0o777)
    with pytest.raises(NightrankError, match="E_STORE_UNFIT"):
        Reader(store).local(ref)


SPOILED = {
    "results/_log/*.json": ("run", 7),
    "index/_log/*.json": ("run", 7),
    "results/*/rank-*/manifest.json": ("verify", 7),
    "results/*/rank-*/_data/*.ranked-*": ("verify", 7),
    "results/*/rank-*/_data/*.queries-*": ("verify", 7),
    "segments/*/build_index-*/_data/*.faiss": ("verify", 7),
    "segments/*/segment-*/_data/*.documents-*": ("verify", 7),
}


@pytest.mark.parametrize("pattern", SPOILED)
def test_the_program_ends_with_7(
    lake: tuple[Path, str], tmp_path: Path, pattern: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, code = SPOILED[pattern]
    copy = tmp_path / "lake"
    shutil.copytree(lake[0], copy)
    path = sorted((copy / "tiny").glob(pattern))[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 16
    path.write_bytes(data)
    capsys.readouterr()
    found = guarded(lambda **_: app([verb, lake[1], "--set", f"root={copy}"]))
    said = capsys.readouterr().err
    assert found == code and said.count("\n") == 1 and path.name in said, said


def test_a_reader_sees_damaged_pages_and_short_files(
    lake: tuple[Path, str], tmp_path: Path
) -> None:
    copy = tmp_path / "lake"
    shutil.copytree(lake[0], copy)
    whole = table(copy)
    path = next(copy.glob("tiny/results/*/rank-*/_data/*.ranked-*"))
    data = path.read_bytes()
    path.write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    with pytest.raises(OSError, match="CRC"):
        read_results(str(copy), "tiny").to_table()
    path.write_bytes(data[:-1])
    with pytest.raises(NightrankError, match="E_CORRUPT"):
        read_results(str(copy), "tiny")
    path.write_bytes(data)
    assert table(copy).equals(whole)
