from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightrank.config.schema import Corpus
from nightrank.errors import NightrankError
from nightrank.inputs.formats import read_split
from nightrank.inputs.listing import store_errors
from nightrank.inputs.splits import (
    InputFile,
    Split,
    check_unchanged,
    is_inside,
    list_inputs,
    plan_splits,
)
from nightrank.storage.filesystem import connect
from tests.support.input_files import SUFFIXES, read, write

ROWS = [{"_id": "a", "text": "one"}, {"_id": "b", "text": "two"}]


def test_a_file_is_identified_by_its_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl.gz", ROWS)
    (file,) = list_inputs(str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    size = path.stat().st_size
    assert file == InputFile(str(path), size, f"sha256:{digest}", "jsonl", "gzip")
    assert InputFile.from_dict(file.to_dict()) == file
    split = Split(file, "whole", 0, size)
    assert plan_splits((file,)) == (split,)
    assert Split.from_dict(split.to_dict()) == split


def test_a_folder_is_read_recursively_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b.csv", "a/z.parquet", "a/_log/x.jsonl", "_b.csv", ".c.jsonl"):
        write(tmp_path / "in" / name, ROWS)
    (tmp_path / "in" / "README.md").touch()
    monkeypatch.chdir(tmp_path)
    urls = [file.url for file in list_inputs("in")]
    assert urls == ["in/a/z.parquet", "in/b.csv"]
    assert [f.url for f in list_inputs("./in/")] == ["./in/a/z.parquet", "./in/b.csv"]
    assert [f.url for f in list_inputs("in", "csv")] == ["in/b.csv"]
    assert [f.url for f in list_inputs(".")] == ["./in/a/z.parquet", "./in/b.csv"]


def test_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("p1.jsonl", "p2.jsonl", "p3.jsonl", "d/e/p1.jsonl", "[x].jsonl", "_p1.jsonl"):
        write(tmp_path / "in" / name, ROWS)
    monkeypatch.chdir(tmp_path)

    def urls(path: str) -> list[str]:
        return [file.url for file in list_inputs(path)]

    assert urls("in/p?.jsonl") == ["in/p1.jsonl", "in/p2.jsonl", "in/p3.jsonl"]
    assert urls("in/p[13].jsonl") == ["in/p1.jsonl", "in/p3.jsonl"]
    assert urls("in/**/p1.jsonl") == ["in/d/e/p1.jsonl", "in/p1.jsonl"]
    assert urls("*/p1.jsonl") == ["in/p1.jsonl"]
    assert urls("in/[x].jsonl") == ["in/[x].jsonl"]
    full = str(tmp_path / "in" / "*2.jsonl")
    assert urls(full) == [str(tmp_path / "in" / "p2.jsonl")]


@pytest.mark.parametrize("path", ["nothing.jsonl", "empty", "empty/*.csv", "no/such/**/x.csv"])
def test_a_wrong_path_is_told(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NightrankError) as error:
        list_inputs(str(tmp_path / path))
    assert error.value.code == "E_EMPTY"
    assert error.value.exit_code == 4
    assert path in str(error.value) and error.value.do


@pytest.mark.parametrize("name", ["x.txt", "x", "x.parquet.gz", "x.gz"])
def test_an_unknown_suffix_needs_a_format(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "x.jsonl", ROWS).rename(tmp_path / name)
    with pytest.raises(NightrankError, match=r"E_SCHEMA.*\.jsonl"):
        list_inputs(str(path))
    assert list_inputs(str(path), "jsonl")[0].format == "jsonl"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_is_known(tmp_path: Path, suffix: str) -> None:
    accepted, rejects = read(write(tmp_path / f"Corpus.{suffix}", ROWS))
    assert [row["doc_id"] for row in accepted] == ["a", "b"] and not rejects


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", ROWS)
    (file,) = list_inputs(str(path))
    check_unchanged(file)
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(NightrankError, match="E_INPUT_CHANGED") as error:
        check_unchanged(file)
    assert error.value.exit_code == 4
    os.unlink(path)
    with pytest.raises(NightrankError, match="E_INPUT_CHANGED.*deleted"):
        check_unchanged(file)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("when", ["before", "during"])
def test_a_local_file_of_equal_size_and_other_bytes_is_refused(
    tmp_path: Path, form: str, when: str
) -> None:
    rows = [{"_id": f"d{i:05d}", "text": f"text {i:05d}"} for i in range(100)]
    path = write(tmp_path / f"c.{form}", rows)
    (file,) = list_inputs(str(path))
    # A part of a file, as of one that is too large to be read by one task.
    kinds = {"jsonl": ("bytes", file.size // 2), "parquet": ("row_groups", 1)}
    kind, stop = kinds[form]
    split = Split(file, kind, 0, stop)  # type: ignore[arg-type]
    data = path.read_bytes()

    def spoil() -> None:
        path.write_bytes(data[:60] + bytes([data[60] ^ 1]) + data[61:])
        os.utime(path, ns=(0, file.modified + 1))

    if when == "before":
        spoil()
    with pytest.raises(NightrankError, match=r"E_INPUT_CHANGED.*sha256") as error:
        for _ in read_split(split, "corpus", Corpus(path=str(path)), {}):
            if when == "during":
                spoil()
    assert error.value.exit_code == 4
    path.write_bytes(data)  # Written anew and the same: as on another node's disk.
    os.utime(path, ns=(0, file.modified + 2))
    assert list(read_split(split, "corpus", Corpus(path=str(path)), {}))


def test_splits_cover_a_file_and_know_no_workers(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b'{"_id": "a", "text": "b"}\n' * 1000)
    files = list_inputs(str(path))
    splits = plan_splits(files, target_bytes=7000)
    assert {split.kind for split in splits} == {"bytes"}
    assert splits[0].start == 0 and splits[-1].stop == files[0].size
    assert all(a.stop == b.start for a, b in zip(splits, splits[1:], strict=False))
    assert all(0 < split.stop - split.start <= 7000 for split in splits)
    assert splits == plan_splits(files, target_bytes=7000)
    assert len(plan_splits(files, target_bytes=7000, by_file=True)) == 1


def test_batches_number_the_blank_lines_that_a_part_ends_in(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b'{"_id": "a", "text": "b"}\n' * 9 + b"\n" * 300 + b"{bad\n")
    for target in (60, 100, 1000):
        last = []
        for split in plan_splits(list_inputs(str(path)), target_bytes=target):
            batches = list(read_split(split, "corpus", Corpus(path=str(path)), {}))
            last.append(max((batch.next_row for batch in batches), default=0))
        assert sum(last) == 310


def test_parquet_is_cut_between_row_groups(tmp_path: Path) -> None:
    table = pa.table({"_id": [str(i) for i in range(1000)], "text": ["x" * 100] * 1000})
    path = tmp_path / "c.parquet"
    pq.write_table(table, path, row_group_size=64, use_dictionary=False, compression="none")
    splits = plan_splits(list_inputs(str(path)), target_bytes=20_000)
    assert {split.kind for split in splits} == {"row_groups"}
    assert splits[0].start == 0 and splits[-1].stop == 16
    assert all(a.stop == b.start for a, b in zip(splits, splits[1:], strict=False))
    whole, _ = read(path)
    parts, rejects = read(path, target=20_000)
    assert [row["doc_id"] for row in parts] == [row["doc_id"] for row in whole]
    assert not rejects and parts[0]["row"] == 0


def test_a_broken_footer_is_left_to_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    path.write_bytes(b"PAR1" + b"\0" * 1000)
    (split,) = plan_splits(list_inputs(str(path)), target_bytes=10)
    assert split.kind == "whole"


@pytest.mark.parametrize(
    ("root", "path", "inside"),
    [
        ("data/lake", "data", True),
        ("data", "data", True),
        ("data/lake", "data/lake/in/x.csv", True),
        ("data/lake", "data/corpus.jsonl", False),
        ("data2", "data", False),
        ("data/lake", "data/*.jsonl", False),
        ("data/lake", "data/**/x.jsonl", True),
        ("data/lake", "data/*/x.jsonl", True),
        ("data/lake", "data/corpus/*.jsonl", False),
        ("s3://b/lake", "s3://b", True),
        ("s3://b/lake", "s3://b/in/", False),
        ("s3://b/lake/", "s3://b/lake/in/x.csv", True),
        ("s3://b/lake", "b", False),
    ],
)
def test_a_run_must_not_read_its_own_output(root: str, path: str, inside: bool) -> None:
    assert is_inside(root, path) is inside


@pytest.mark.s3
def test_s3_listing(s3_url: str) -> None:
    filesystem, _ = connect(s3_url, {})
    folder = "lake/listing"
    for key in ("in/", "in/b/", "in/b/y.jsonl", "in/x.csv.gz", "in/_tmp/z.csv", "in/notes.md"):
        body = b"" if key.endswith("/") else key.encode()
        filesystem.call_s3("put_object", Bucket="lake", Key=f"listing/{key}", Body=body)
    files = list_inputs(f"s3://{folder}/in")
    assert [f.url for f in files] == [f"s3://{folder}/in/b/y.jsonl", f"s3://{folder}/in/x.csv.gz"]
    digest = hashlib.md5(b"in/x.csv.gz").hexdigest()
    assert files[1] == InputFile(f"s3://{folder}/in/x.csv.gz", 11, f"etag:{digest}", "csv", "gzip")
    assert list_inputs(f"s3://{folder}/in/") == files
    assert list_inputs(f"s3://{folder}/in/x.csv.gz") == files[1:]
    assert list_inputs(f"s3://{folder}/i?/*.csv.gz") == files[1:]
    assert list_inputs(f"s3://{folder}/**/*.jsonl") == files[:1]
    for file in files:
        check_unchanged(file)


@pytest.mark.s3
def test_s3_paths_that_do_not_exist(s3_url: str) -> None:
    for path in ("s3://lake/none.csv", "s3://lake/none/*.csv", "s3://lake/none/"):
        with pytest.raises(NightrankError, match="E_EMPTY"):
            list_inputs(path)
    for path in ("s3://no-such-bucket/x.csv", "s3://no-such-bucket/*.csv", "s3://no-such-bucket"):
        with pytest.raises(NightrankError, match="E_EMPTY.*no-such-bucket"):
            list_inputs(path)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermissionError("Forbidden"), "E_AUTH"),
        (type("EndpointConnectionError", (Exception,), {})("down"), "E_STORE_RETRY"),
        (type("FileExpired", (OSError,), {})("new etag"), "E_INPUT_CHANGED"),
    ],
)
def test_a_stores_failures_are_told_apart(error: Exception, code: str) -> None:
    with pytest.raises(NightrankError) as told, store_errors("s3://b/x", "E_EMPTY"):
        raise error
    assert told.value.code == code and told.value.where == "s3://b/x"
