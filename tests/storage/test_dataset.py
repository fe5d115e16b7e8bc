from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightrank.errors import NightrankError
from nightrank.storage import scatter
from nightrank.storage.dataset import Blob, Dataset, FileRef, Payload, Record
from nightrank.storage.fingerprint import canonical, fingerprint
from nightrank.storage.gather import gather
from nightrank.storage.ranges import Range, Ranges
from nightrank.storage.reader import Reader
from nightrank.storage.scatter import Scatter
from nightrank.storage.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def table(rows: int = 1000) -> pa.Table:
    return pa.table({"id": [f"d{i}" for i in range(rows)], "score": np.arange(rows) / 7})


def commit(store: Store, shard: str = "part-0", attempt: int = 0, rows: int = 1000) -> Record:
    payload = Payload({"rows": table(rows)}, {"n": rows})
    return Dataset(store, "set").commit(shard, attempt, payload, lambda: 0.5)


def test_a_committed_table_reads_back(store: Store) -> None:
    record = commit(store)
    assert Reader(store).table(record.files["rows"]).equals(table())
    assert Dataset(store, "set").records() == {"part-0": record}


def test_the_first_record_wins_and_the_loser_adopts_it(store: Store) -> None:
    first = commit(store, rows=10)
    second = commit(store, rows=20)
    assert second == first


def test_a_manifest_survives_the_trip_through_json(store: Store) -> None:
    records = [commit(store, f"part-{i}", rows=10 * i) for i in range(3)]
    dataset = Dataset(store, "set")
    assert dataset.manifest() is None
    made = dataset.finish("stage", 1, {"a": [1, 2]}, records)
    assert dataset.manifest() == made
    assert made.rows("rows") == made.total("n") == 30


def test_a_shard_whose_file_is_gone_or_short_does_not_count(store: Store) -> None:
    for damage in (lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-1])):
        record = commit(store, f"part-{damage!r:.5}{id(damage)}")
        damage(Path(store.path(record.files["rows"].key)))
        dataset = Dataset(store, "set")
        assert record.shard not in dataset.records()
        again = commit(store, record.shard, dataset.next_attempts()[record.shard])
        assert again.attempt == 1
        assert dataset.records()[record.shard] == again


@pytest.mark.parametrize("kind", ["parquet", "scatter", "blob"])
def test_every_flipped_bit_is_found_before_use(store: Store, kind: str) -> None:
    content = {
        "parquet": table(),
        "scatter": Scatter(table(), np.arange(1000) % 3),
        "blob": Blob(lambda f: f.write(bytes(range(256)) * 20)),
    }[kind]
    record = Dataset(store, "set").commit("part", 0, Payload({"x": content}), lambda: 0.0)
    ref = record.files["x"]
    path = Path(store.path(ref.key))
    good = path.read_bytes()
    rng = np.random.default_rng(1)
    read = Reader(store)
    for offset in rng.integers(0, len(good), 60).tolist():
        bad = bytearray(good)
        bad[offset] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        with pytest.raises(NightrankError) as caught:
            if kind == "scatter":
                for part in ref.ranges:
                    read.range(ref, part)
            elif kind == "blob":
                read.local(ref)
            else:
                read.table(ref)
        assert caught.value.code == "E_CORRUPT"
    for length in (0, 1, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:length])
        with pytest.raises(NightrankError) as caught:
            read.buffer(ref)
        assert caught.value.code == "E_CORRUPT"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 40), max_size=200),
    st.sampled_from([(scatter.COMPRESSED_BYTES, scatter.BUFFERED_BYTES), (1, 100), (1 << 20, 40)]),
)
def test_scattered_ranges_hold_each_keys_rows_in_order(
    keys: list[int], limits: tuple[int, int]
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(scatter, "COMPRESSED_BYTES", limits[0])
        patch.setattr(scatter, "BUFFERED_BYTES", limits[1])
        store = Store(folder)
        rows = pa.table({"row": pa.array(range(len(keys)), pa.int64())})
        content = Scatter(rows, np.array(keys, dtype=np.int64))
        record = Dataset(store, "set").commit("p", 0, Payload({"s": content}), lambda: 0.0)
        ref = record.files["s"]
        found = {part.key: Reader(store).range(ref, part)["row"].to_pylist() for part in ref.ranges}
        wanted: dict[int, list[int]] = {}
        for row, key in enumerate(keys):
            wanted.setdefault(key, []).append(row)
        assert found == wanted


TABLES = st.lists(st.dictionaries(st.integers(0, 9), st.integers(1, 1 << 40)), max_size=5)


@given(TABLES)
def test_what_is_gathered_of_files_is_each_files_range_of_the_key(
    tables: list[dict[int, int]],
) -> None:
    files = []
    for number, lengths in enumerate(tables):
        offsets = itertools.accumulate([0, *(n for _, n in sorted(lengths.items()))])
        made = [
            Range(key, offset, length, number + key, 2**64 - 1 - key)
            for (key, length), offset in zip(sorted(lengths.items()), offsets, strict=False)
        ]
        packed = Ranges.from_text(Ranges.of(made).to_text())
        assert list(packed) == made and [packed[i] for i in range(len(made))] == made
        assert list(packed.between(3, 7)) == [one for one in made if 3 <= one.key < 7]
        files.append(FileRef(f"f{number}", 1, "", 1, packed))
    gathered = gather(files)
    assert list(gathered) == sorted({key for lengths in tables for key in lengths})
    for key, found in gathered.items():
        wanted = [(n, ref.range(key)) for n, ref in enumerate(files) if ref.range(key)]
        assert [(number, part) for number, _, part in found] == wanted
        assert all(ref.key == f"f{number}" and not ref.ranges for number, ref, _ in found)
        assert found.rows == sum(number + key for number, _ in wanted)


def test_row_slices_read_only_the_groups_they_need(store: Store, monkeypatch) -> None:
    monkeypatch.setattr("nightrank.storage.parquet.ROW_GROUP_ROWS", 100)
    ref = commit(store).files["rows"]
    pieces = list(Reader(store).slices(ref, 250, 420, ["id"]))
    assert [first for first, _ in pieces] == [200, 300, 400]
    assert pieces[0][1]["id"][50].as_py() == "d250"


def test_parquet_carries_page_checksums_and_an_index(store: Store) -> None:
    ref = commit(store).files["rows"]
    column = pq.ParquetFile(store.path(ref.key)).metadata.row_group(0).column(0)
    assert column.compression == "ZSTD" and column.has_offset_index


def test_a_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [2.5, None]}) == fingerprint({"b": [2.5, None], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


@pytest.mark.parametrize("value", [{1: 2}, {"a": {1, 2}}, [float("nan")], object(), {"a": b"x"}])
def test_a_value_without_one_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        canonical(value)
