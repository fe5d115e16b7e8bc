"""What is read of a folder or a glob, what is left out and counted, and what is refused."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest

from nightrank.config.schema import Corpus
from nightrank.errors import NightrankError
from nightrank.inputs.formats import read_split
from nightrank.inputs.splits import inventory, plan_splits
from nightrank.storage.filesystem import connect
from tests.support.input_files import write

ROWS = [{"_id": "a", "text": "one"}]
LATIN1 = os.fsdecode(b"caf\xe9")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def listed(
    path: str = "in", format: str = "auto", ignore: Iterable[str] = ()
) -> tuple[list[str], dict[str, int]]:
    """The names that are read, and the counts of what is not."""
    found = inventory(path, format, None, ignore)
    return [file.url for file in found.files], found.left_out.counts


def refused(path: str = "in", format: str = "auto", ignore: Iterable[str] = ()) -> NightrankError:
    with pytest.raises(NightrankError) as told:
        inventory(path, format, None, ignore)
    assert told.value.exit_code == 4 and told.value.do and "\n" not in str(told.value)
    return told.value


def test_links_to_files_and_folders_are_followed(folder: Path, tmp_path: Path) -> None:
    """The layout of the Hugging Face hub's cache: names are links to blobs without a suffix."""
    blob = write(tmp_path / "x.jsonl", ROWS * 2).rename(tmp_path / "3f1c")
    (folder / "train-0.jsonl").symlink_to("../3f1c")
    write(folder / "train-1.jsonl", ROWS)
    write(tmp_path / "elsewhere" / "deep" / "y.jsonl", ROWS)
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    urls = ["in/more/deep/y.jsonl", "in/train-0.jsonl", "in/train-1.jsonl"]
    assert listed() == (urls, {})
    assert listed("in/**/*.jsonl") == (urls, {})
    assert listed("in/*/*/y.jsonl") == (urls[:1], {})
    assert listed("in/train-?.jsonl") == (urls[1:], {})
    (linked,) = inventory("in/train-0.jsonl").files
    assert linked.size == blob.stat().st_size
    rows = [
        id
        for split in plan_splits(inventory("in").files)
        for batch in read_split(split, "corpus", Corpus(path="in"))
        for id in batch.columns["doc_id"].to_pylist()
    ]
    assert len(rows) == 4
    Path("link").symlink_to("in")  # The input itself is a link.
    assert listed("link") == ([url.replace("in/", "link/", 1) for url in urls], {})


@pytest.mark.parametrize("target", ["../missing", "lost.jsonl", "/no/such/place"])
@pytest.mark.parametrize("path", ["in", "in/*", "in/**/*.jsonl"])
def test_a_link_that_leads_nowhere_is_refused(folder: Path, target: str, path: str) -> None:
    write(folder / "a.jsonl", ROWS)
    (folder / "lost.jsonl").symlink_to(target)  # One of them leads to itself.
    error = refused(path)
    assert error.code == "E_EMPTY" and error.where == "in/lost.jsonl"
    assert "lost.jsonl" in error.do and "link" in error.what
    assert listed(path, ignore=["lost*"]) == (["in/a.jsonl"], {"ignored": 1})


def test_cycles_of_links_end(folder: Path) -> None:
    write(folder / "a" / "x.jsonl", ROWS)
    write(folder / "b" / "y.jsonl", ROWS)
    for name, target in {"a/b": "../b", "b/a": "../a", "self": ".", "up": ".."}.items():
        (folder / name).symlink_to(target)
    files, counts = listed()
    assert files == ["in/a/x.jsonl", "in/b/y.jsonl"]
    # self, up, a/b/a, b/a/b; the files below a/b and b/a are read under their own names.
    assert counts == {"cycle": 4, "repeated": 2}
    assert listed("in/**/x.jsonl") == (["in/a/x.jsonl"], {"repeated": 1})
    assert listed("in/self/a/*.jsonl")[0] == ["in/self/a/x.jsonl"]


def test_a_file_of_several_names_is_read_once(folder: Path) -> None:
    """Two revisions in the hub's cache share their blobs; a name that is no link counts first."""
    write(folder / "blobs" / "a.jsonl", ROWS)
    (folder / "a-first.jsonl").symlink_to("blobs/a.jsonl")
    assert listed() == (["in/blobs/a.jsonl"], {"repeated": 1})
    (folder / "blobs" / "a.jsonl").rename(folder / "blobs" / "3f1c")
    for revision in ("r1", "r2"):
        (folder / revision).mkdir()
        (folder / revision / "a.jsonl").symlink_to("../blobs/3f1c")
    (folder / "a-first.jsonl").unlink()
    assert listed() == (["in/r1/a.jsonl"], {"repeated": 2})  # r2's name and the blob itself.


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("part-1.jsonl.bz2", "*.bz2"),
        ("000000_0", "000000_0"),
        ("part-00000", "part-00000"),
        ("x.parquet.gz", "x.parquet.gz"),
        ("notes.txt", "*.txt"),
        ("rows.avro", "*.avro"),
        ("sub/part.orc", "*.orc"),
        ("readme.jsonl.bz2", "*.bz2"),
    ],
)
def test_a_file_of_unknown_format_is_refused_by_name(folder: Path, name: str, pattern: str) -> None:
    write(folder / "part-0.jsonl.gz", ROWS)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"text")
    for path, format in (("in", "auto"), ("in", "jsonl"), ("in/**", "auto")):
        error = refused(path, format)
        assert error.code == "E_SCHEMA" and error.where == f"in/{name}"
        assert f"ignore: ['{pattern}']" in error.do
        kept = (["in/part-0.jsonl.gz"], {"ignored": 1})
        assert listed(path, format, [pattern]) == kept


def test_what_needs_no_permission_is_counted(folder: Path) -> None:
    write(folder / "a.jsonl", ROWS)
    write(folder / "_tmp" / "b.jsonl", ROWS)
    write(folder / "_tmp" / "c.jsonl", ROWS)
    beside = ("README.md", "LICENSE", "readme.txt", "a.jsonl.crc", "SHA256SUMS", "CITATION.cff")
    for name in (*beside, "_SUCCESS", ".hidden", "done"):
        (folder / name).write_bytes(b"" if name == "done" else b"x")
    write(folder / "b.csv", ROWS)
    counts = {"hidden": 3, "sidecar": len(beside), "empty": 1}
    assert listed() == (["in/a.jsonl", "in/b.csv"], counts)
    assert listed("in", "csv") == (["in/b.csv"], {**counts, "other_format": 1})
    told = inventory("in").left_out.describe()
    assert (
        told.startswith("10 left out: 3 hidden") and "in/CITATION.cff" in told and "in/done" in told
    )


def test_ignored_files_are_matched_from_any_folder_on(folder: Path) -> None:
    for name in ("max.jsonl", "x.jsonl", "old/a.jsonl", "n/old/b.jsonl", "bold/c.jsonl"):
        write(folder / name, ROWS)
    kept = ["in/bold/c.jsonl", "in/max.jsonl"]
    assert listed(ignore=["x.jsonl", "old/*"]) == (kept, {"ignored": 3})
    assert "5 named by `ignore`" in refused(ignore=["*"]).what


def test_pipes_and_sockets_among_files(folder: Path) -> None:
    write(folder / "a.jsonl", ROWS)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("in/s")  # Relative: a socket's path is 107 bytes at most.
        assert listed() == (["in/a.jsonl"], {"other": 1})
        os.mkfifo(folder / "b.jsonl")
        for path in ("in", "in/*.jsonl"):
            error = refused(path)
            assert error.where == "in/b.jsonl" and "pipe" in error.what
        assert refused("in/*", "jsonl").where == "in/b.jsonl"


def test_a_glob_counts_folders_and_reads_hidden_names_that_it_spells(folder: Path) -> None:
    for name in ("a.jsonl", "_b.jsonl", "2025/c.jsonl", "_x/d.jsonl"):
        write(folder / name, ROWS)
    assert listed("in/*") == (["in/a.jsonl"], {"folder": 1, "hidden": 2})
    assert listed("in/_*.jsonl") == (["in/_b.jsonl"], {})
    assert listed("in/_x/*.jsonl") == (["in/_x/d.jsonl"], {})
    assert listed("i?/_x/*.jsonl") == (["in/_x/d.jsonl"], {})
    assert listed("in/*/*.jsonl") == (["in/2025/c.jsonl"], {"hidden": 1})


@pytest.mark.parametrize("name", [f"{LATIN1}.jsonl", f"{LATIN1}/x.jsonl"])
@pytest.mark.parametrize("path", ["in", "in/**/*.jsonl"])
def test_a_name_that_is_no_utf8_is_refused(folder: Path, name: str, path: str) -> None:
    write(folder / "a.jsonl", ROWS)
    write(folder / name, ROWS)
    error = refused(path)
    assert error.code == "E_SCHEMA" and "UTF-8" in error.what
    assert error.where.startswith("in/caf\\xe9")
    str(error).encode()
    assert listed(path, ignore=["caf*"]) == (["in/a.jsonl"], {"ignored": 1})


def test_names_of_any_other_kind_are_read(folder: Path) -> None:
    names = ["a b.jsonl", "ä%20+#&=.jsonl", "日本.jsonl", "line\nfeed.jsonl", "\x7f.jsonl"]
    for name in names:
        write(folder / name, ROWS)
    assert listed() == (sorted(f"in/{name}" for name in names), {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_refused(folder: Path) -> None:
    write(folder / "a.jsonl", ROWS)
    write(folder / "closed" / "b.jsonl", ROWS)
    (folder / "closed").chmod(0)
    try:
        with pytest.raises(NightrankError, match="E_AUTH"):
            inventory("in")
    finally:
        (folder / "closed").chmod(0o700)


KEYS = (
    "c.jsonl",
    "/d.jsonl",
    "a b/%20+.jsonl",
    "x/#?&=;.jsonl",
    "ä/日本.jsonl",
    "x//y///z.jsonl",
    "q?x=1/e.jsonl",
)


@pytest.mark.s3
def test_keys_of_any_form_are_listed_and_read(s3_url: str) -> None:
    filesystem, _ = connect(s3_url, {})
    for prefix in ("keys/in/", "/lead/"):
        for number, key in enumerate(KEYS):
            body = b'{"_id":"%d","text":"river"}\n' % number
            filesystem.call_s3("put_object", Bucket="lake", Key=prefix + key, Body=body)
    for path in (
        "s3://lake/keys/in",
        "s3://lake/keys/in/",
        "s3://lake/keys/i*/**",
        "s3://lake//lead",
    ):
        found = inventory(path)
        base = "s3://lake//lead/" if "lead" in path else "s3://lake/keys/in/"
        assert sorted(file.url for file in found.files) == sorted(base + key for key in KEYS)
        ids = [
            id
            for split in plan_splits(found.files)
            for batch in read_split(split, "corpus", Corpus(path=path))
            for id in batch.columns["doc_id"].to_pylist()
        ]
        assert sorted(map(int, ids)) == list(range(len(KEYS)))
    for key in KEYS:  # As a path of its own; one with magic characters is taken literally.
        (file,) = inventory(f"s3://lake/keys/in/{key}").files
        assert file.url == f"s3://lake/keys/in/{key}"
    assert [f.url for f in inventory("s3://lake/keys/in//*.jsonl").files] == [
        "s3://lake/keys/in//d.jsonl"
    ]
    assert [f.url for f in inventory("s3://lake/keys/in/x//y/**/z.jsonl").files] == [
        "s3://lake/keys/in/x//y///z.jsonl"
    ]


@pytest.mark.s3
def test_what_a_bucket_leaves_out_is_counted_or_refused(s3_url: str) -> None:
    filesystem, _ = connect(s3_url, {})

    def put(key: str, body: bytes = b"x") -> None:
        filesystem.call_s3("put_object", Bucket="lake", Key=f"left/{key}", Body=body)

    for key in ("a.jsonl", "_tmp/b.jsonl", "_tmp/c.jsonl", "README.md", "b/", "flag"):
        put(key, b"" if key in ("b/", "flag") else b"x")
    counts = {"hidden": 1, "sidecar": 1, "empty": 1}
    assert listed("s3://lake/left") == (["s3://lake/left/a.jsonl"], counts)
    put("000000_0")
    error = refused("s3://lake/left")
    assert error.code == "E_SCHEMA" and error.where == "s3://lake/left/000000_0"
    assert listed("s3://lake/left", ignore=["000*"])[1] == {**counts, "ignored": 1}
    put("v?versionId=1.jsonl")
    assert "versionId" in refused("s3://lake/left", ignore=["000*"]).what
    assert "bucket" in refused("s3://l*/x.jsonl").what
    assert "bucket" in refused("s3://No_Such Bucket/x.jsonl").what
