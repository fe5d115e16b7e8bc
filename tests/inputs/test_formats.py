from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightrank.errors import NightrankError
from nightrank.inputs import delimited, jsonl, raw
from nightrank.inputs import lines as lines_module
from nightrank.inputs.splits import InputFile, Split, list_inputs
from nightrank.storage.filesystem import connect
from tests.support.collection import COLLECTIONS
from tests.support.input_files import packed, read, read_splits, reasons, source_of, write

ROWS = [
    {"_id": "a/../b", "title": "T", "text": 'quoted "x", and\na line', "url": "u"},
    {"_id": "2", "title": "", "text": "zwei\tä\x01", "url": ""},
]
PLAIN = ["jsonl", "csv", "tsv"]
TEXT = [f"{p}{c}" for p in PLAIN for c in ("", ".gz", ".zst")]


@pytest.mark.parametrize("suffix", ["parquet", *TEXT])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    rows = ROWS
    if suffix.startswith("tsv"):  # Which cannot hold tabs and line feeds.
        rows = [{name: " ".join(v.split()) for name, v in row.items()} for row in ROWS]
    accepted, rejects = read(write(tmp_path / f"c.{suffix}", rows), attributes={"url": "string"})
    shown = [{k: r[k] for k in ("doc_id", "title", "text", "url", "row")} for r in accepted]
    names = ("doc_id", "title", "text", "url")
    assert shown == [
        {**dict(zip(names, row.values(), strict=True)), "row": i} for i, row in enumerate(rows)
    ]
    assert not rejects
    # Which format a document came in is no part of its content.
    again, _ = read(write(tmp_path / "again.jsonl", rows), attributes={"url": "string"})
    assert [r["content_hash"] for r in accepted] == [r["content_hash"] for r in again]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
def test_columns_by_mapping_and_by_habit(tmp_path: Path, suffix: str) -> None:
    odd = write(tmp_path / f"o.{suffix}", [{"docno": "1", "body": "b", "id": "x", "text": "t"}])
    (row,), _ = read(odd, columns={"id": "docno", "text": "body"})
    assert (row["doc_id"], row["text"], row["title"]) == ("1", "b", "")
    (row,), _ = read(odd)
    assert (row["doc_id"], row["text"]) == ("x", "t")
    asked = write(tmp_path / f"q.{suffix}", [{"query_id": "q", "text": "t", "vertical": "law"}])
    (row,), _ = read(asked, "queries")
    assert (row["query_id"], row["vertical"]) == ("q", "law")
    for settings_ in ({"columns": {"text": "nope"}}, {"columns": {"title": "nope"}}):
        if suffix == "jsonl" and "title" in settings_["columns"]:
            continue
        with pytest.raises(NightrankError, match=r"'nope' not found; found: .*docno.*columns"):
            read(odd, **settings_)
    if suffix != "jsonl":  # There a row may leave a column out: see `test_absent_columns.py`.
        with pytest.raises(NightrankError, match="'year' not found"):
            read(odd, attributes={"year": "int64"})
    with pytest.raises(ValueError, match="Nightrank's columns"):
        read(odd, attributes={"row": "int64"})


def test_a_file_with_other_columns_can_be_left_out(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.jsonl", ROWS)
    write(tmp_path / "in" / "b.jsonl", [{"_id": "1", "body": "x"}])
    accepted, rejects = read(tmp_path / "in", on_bad_file="reject")
    assert len(accepted) == 2 and reasons(rejects) == [(-1, "unreadable_file")]


def test_bad_lines_keep_their_row_numbers(tmp_path: Path) -> None:
    lines = [
        b'{"_id": "a", "text": "fine \\u0000"}',
        b"",
        b'{"_id": "b", "text": ',
        b"[1]",
        b'{"_id": "c", "text": "\xff"}',
        b'{"_id": "d", "text": "\\ud800"}',
        b'{"_id": 5, "text": "int id"}',
        b'{"_id": true, "text": "t"}',
        b'{"_id": 1.5, "text": "t"}',
        b'{"_id": "e", "text": 1}',
        b'{"_id": "f", "text": "t", "title": []}',
        b'{"text": "t"}',
        b'{"_id": "g"}',
        b'{"_id": "h", "text": "last"}',
    ]
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    accepted, rejects = read(path)
    assert [(r["row"], r["doc_id"]) for r in accepted] == [(0, "a"), (6, "5"), (13, "h")]
    assert accepted[0]["text"] == "fine \0"
    assert reasons(rejects) == [
        (2, "bad_json"),
        (3, "bad_json"),
        (4, "invalid_utf8"),
        (5, "invalid_utf8"),
        (7, "bad_type"),
        (8, "bad_type"),
        (9, "bad_type"),
        (10, "bad_type"),
        (11, "null_id"),
        (12, "null_text"),
    ]
    with pytest.raises(NightrankError, match=r"E_SCHEMA.*bad_json.*c\.jsonl, row 2"):
        read(path, on_bad_row="error")


def test_bad_records_keep_their_row_numbers(tmp_path: Path) -> None:
    lines = [b"x,_id,text", b"1,a,fine", b"", b"1,b", b'1,c,"two', b'lines"', b"1,d,\xff"]
    lines += [b"1,e\xfe,x,y", b"1,,t", b"1,f,", b"1,g,last"]
    path = tmp_path / "c.csv"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    accepted, rejects = read(path)
    assert [(r["row"], r["doc_id"]) for r in accepted] == [(0, "a"), (2, "c"), (7, "g")]
    bad = ["bad_row", "invalid_utf8", "bad_row", "empty_id", "empty_text"]
    assert reasons(rejects) == list(zip([1, 3, 4, 5, 6], bad, strict=True))


@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
@pytest.mark.parametrize("mark", [b"x", b"\xe9"])  # UTF-8, and Latin-1 from there on.
@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
def test_a_quote_that_is_never_closed_does_not_swallow_the_rows_after_it(
    tmp_path: Path, suffix: str, mark: bytes, end: bytes
) -> None:
    def written(*texts: bytes) -> Path:
        rows = [b"%d,%s" % (i, text) for i, text in enumerate(texts)]
        data = b"\n".join([b"_id,text", *rows]) + end
        path = tmp_path / f"c.{suffix}"
        path.write_bytes(packed(data, suffix.rpartition(".")[2]))
        return path

    closed = written(b"one", b'"a\nb ""c"" "', b'5" nails', b"d" + mark, b'"last\n"')
    accepted, rejects = read(closed)
    assert len(accepted) + len(rejects) == 5
    with pytest.raises(NightrankError, match="never closed") as caught:
        read(written(b"one", b'"two', b"three" + mark, b"four"))
    assert caught.value.exit_code == 4


def test_many_batches_of_csv(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    rows = [f"{i},x" if i % 1000 else f"{i}" for i in range(30_000)]
    path.write_text("_id,text\n" + "\n".join(rows) + "\n")
    accepted, rejects = read(path)
    assert all(int(r["doc_id"]) == r["row"] for r in accepted)
    assert reasons(rejects) == [(i, "bad_row") for i in range(0, 30_000, 1000)]


@pytest.mark.parametrize("data", [b"_id,text", b"_id,text\n"])
def test_a_header_alone_is_no_row(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "c.csv").write_bytes(data)
    assert read(tmp_path / "c.csv") == ([], [])


def test_headers_that_do_not_do(tmp_path: Path) -> None:
    for data in (b"", b"text,text,_id\n1,2,3\n", b"\xff\xfe\n1\n"):
        (tmp_path / "c.csv").write_bytes(data)
        with pytest.raises(NightrankError, match="E_SCHEMA"):
            read(tmp_path / "c.csv")


@pytest.mark.parametrize("type", [pa.string(), pa.large_string(), pa.string_view(), "dictionary"])
def test_parquet_strings_of_every_kind(tmp_path: Path, type: Any) -> None:
    texts = pa.array(["one", None, "three", "one"])
    text = texts.dictionary_encode() if type == "dictionary" else texts.cast(type)
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table({"id": pa.array([1, 2, 3, 4], pa.uint32()), "text": text}), path)
    accepted, rejects = read(path)
    assert [(r["doc_id"], r["text"]) for r in accepted] == [
        ("1", "one"),
        ("3", "three"),
        ("4", "one"),
    ]
    assert reasons(rejects) == [(1, "null_text")]


@pytest.mark.parametrize(
    "columns",
    [
        {"id": ["1"], "text": pa.array([b"x"])},
        {"id": ["1"], "text": pa.array([["x"]])},
        {"id": ["1"], "text": pa.array([1])},
        {"id": [1.0], "text": ["x"]},
        {"id": pa.array([b"x"]), "text": ["x"]},
    ],
)
def test_parquet_columns_of_no_use(tmp_path: Path, columns: dict[str, Any]) -> None:
    pq.write_table(pa.table(columns), tmp_path / "c.parquet")
    with pytest.raises(NightrankError, match="E_SCHEMA.*expected string"):
        read(tmp_path / "c.parquet")


def test_parquet_isolates_invalid_utf8(tmp_path: Path) -> None:
    raw_text = pa.array([b"fine", b"\xff", b"fine too"])
    text = pa.Array.from_buffers(pa.string(), 3, raw_text.buffers())
    pq.write_table(pa.table({"id": ["a", "b", "c"], "text": text}), tmp_path / "c.parquet")
    accepted, rejects = read(tmp_path / "c.parquet")
    assert [r["row"] for r in accepted] == [0, 2]
    assert reasons(rejects) == [(1, "invalid_utf8")]


@pytest.mark.parametrize("suffix", ["jsonl.gz", "csv.gz", "tsv.zst", "jsonl.zst", "parquet"])
def test_a_truncated_file_is_refused_or_left_out_whole(tmp_path: Path, suffix: str) -> None:
    rows = [{"_id": str(i), "text": f"text {i * 7919 % 10007}"} for i in range(20_000)]
    path = write(tmp_path / f"c.{suffix}", rows)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(NightrankError, match="E_SCHEMA.*unreadable_file") as error:
        read(path)
    assert "\n" not in str(error.value)
    accepted, rejects = read(path, on_bad_file="reject")
    assert accepted == [] and reasons(rejects) == [(-1, "unreadable_file")]


def test_flipped_bits_in_parquet_are_found(tmp_path: Path) -> None:
    rows = [{"_id": str(i), "text": f"text {i}"} for i in range(1000)]
    path = write(tmp_path / "c.parquet", rows)
    data = bytearray(path.read_bytes())
    data[200] ^= 4
    path.write_bytes(data)
    with pytest.raises(NightrankError, match="E_SCHEMA"):
        read(path)


def test_bytes_that_changed_under_an_equal_size_are_found(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", ROWS)
    files = list_inputs(str(path))
    path.write_bytes(path.read_bytes().replace(b"zwei", b"drei"))
    split = Split(files[0], "whole", 0, files[0].size)
    with pytest.raises(NightrankError, match="E_INPUT_CHANGED.*sha256"):
        read_splits((split,), "corpus", source_of("corpus"))


@pytest.mark.parametrize("suffix", ["parquet", "jsonl.gz", "csv.zst"])
def test_a_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    rows = [{"_id": str(i), "text": "a" * 50_000} for i in range(300)]
    path = write(tmp_path / f"c.{suffix}", rows)
    assert len(read(path)[0]) == 300
    monkeypatch.setattr(raw, "EXPANSION_BYTES", 1 << 20)
    with pytest.raises(NightrankError, match="E_SCHEMA.*suspicious_expansion"):
        read(path)
    accepted, rejects = read(path, on_bad_file="reject")
    assert accepted == [] and reasons(rejects) == [(-1, "suspicious_expansion")]


def test_long_texts_come_in_small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "c.parquet", [{"_id": str(i), "text": "a" * 999} for i in range(50)])
    monkeypatch.setattr(raw, "PIECE_BYTES", 3000)
    accepted, _ = read(path)
    assert [r["row"] for r in accepted] == list(range(50))


def test_a_line_beyond_any_text_is_dropped_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "LINE_SLACK", 0)
    monkeypatch.setattr(lines_module, "BLOCK_BYTES", 64)
    good = '{"_id": "%d", "text": "t"}\n'
    long = '{"_id": "x", "text": "' + "y" * 1000 + '"}\n'
    (tmp_path / "c.jsonl").write_text(good % 1 + long + good % 2 + long + long.strip())
    accepted, rejects = read(tmp_path / "c.jsonl", max_text_bytes=20)
    assert [r["row"] for r in accepted] == [0, 2]
    assert reasons(rejects) == [(1, "too_large"), (3, "too_large"), (4, "too_large")]
    parts, refused = read(tmp_path / "c.jsonl", max_text_bytes=20, target=50)
    assert len(parts) == 2 and len(refused) == 3


objects = st.fixed_dictionaries(
    {},
    optional={
        "_id": st.sampled_from(["i", None]),
        "id": st.sampled_from(["j", 7]),
        "doc_id": st.just("k"),
        "text": st.text(max_size=40),
        "title": st.just("t"),
        "year": st.sampled_from([1, 2.5, None]),
    },
)
lines = st.lists(
    st.one_of(
        objects.map(lambda row: json.dumps(row).encode()),
        st.just(b""),
        st.just(b"  "),
        st.just(b"not json"),
        st.text(max_size=40).map(lambda t: json.dumps({"_id": "i", "text": t}).encode()),
    ),
    max_size=25,
)


@settings(max_examples=75, deadline=None)
@given(
    lines,
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
    st.integers(1, 200),
    st.integers(1, 64),
)
def test_byte_ranges_give_what_the_whole_file_gives(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[bytes],
    end: bytes,
    ended: bool,
    step: int,
    block: int,
) -> None:
    path = tmp_path_factory.mktemp("r") / "c.jsonl"
    # A text and an id at the end: a whole file without them is refused, a part is not.
    path.write_bytes(end.join([*lines, b'{"_id": "z", "text": "t"}']) + (end if ended else b""))
    source = source_of("corpus", attributes={"year": "float64"})
    (file,) = list_inputs(str(path))
    ranges = range(0, file.size, step)
    splits = tuple(Split(file, "bytes", a, min(a + step, file.size)) for a in ranges)
    whole = read_splits((Split(file, "whole", 0, file.size),), "corpus", source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "BLOCK_BYTES", block)
        parts = read_splits(splits, "corpus", source)
    for one, other in zip(whole, parts, strict=True):
        assert [{**r, "row": 0} for r in one] == [{**r, "row": 0} for r in other]


@settings(max_examples=120, deadline=None)
@given(
    st.binary(max_size=300),
    st.sampled_from(["jsonl", "jsonl.gz", "csv", "csv.zst", "tsv", "parquet"]),
    st.booleans(),
    st.sampled_from([b"", b'{"_id": 1, "text": "t"}\n', b"_id,text\n1,t\n", b"_id\ttext\n"]),
)
def test_no_bytes_give_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str, pack: bool, head: bytes
) -> None:
    path = tmp_path_factory.mktemp("f") / f"c.{suffix}"
    data = head + data
    path.write_bytes(packed(data, suffix.rsplit(".", 1)[-1]) if pack else data)
    try:
        read(path)
    except NightrankError as error:
        assert error.code == "E_SCHEMA"
    accepted, rejects = read(path, on_bad_file="reject")
    if suffix.startswith("jsonl") and not any(reject["row"] == -1 for reject in rejects):
        text = data if pack or suffix == "jsonl" else gzip.decompress(data) if data else b""
        text = text.removeprefix(b"\xef\xbb\xbf")
        filled = sum(bool(line) and not line.isspace() for line in text.split(b"\n"))
        assert len(accepted) + len(rejects) == filled


cells = st.one_of(
    st.sampled_from([b"", b"t", b'"a\nb"', b'"a""b"', "\u00e4".encode(), b"\xff", b"\x81\xfe"]),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(cells, min_size=2, max_size=4), max_size=30), st.integers(64, 400))
def test_csv_rows_keep_their_numbers_in_any_encoding(
    tmp_path_factory: pytest.TempPathFactory, records: list[list[bytes]], block: int
) -> None:
    path = tmp_path_factory.mktemp("c") / "c.csv"
    numbered = [[str(i).encode(), *record] for i, record in enumerate(records)]
    path.write_bytes(b"\n".join([b"_id,text,title", *map(b",".join, numbered)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "MIN_BLOCK", block)
        accepted, rejects = read(path, max_text_bytes=10)
    assert sorted(r["row"] for r in accepted + rejects) == list(range(len(records)))
    assert all(int(r["doc_id"]) == r["row"] for r in accepted)
    for row, reason in reasons(rejects):
        fields = records[row]
        if len(fields) != 2:
            assert reason == "bad_row"
        elif any(field in (b"\xff", b"\x81\xfe") for field in fields):
            assert reason == "invalid_utf8"
        else:
            assert reason == "empty_text" and fields[0] == b""


@pytest.mark.s3
@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv.gz", "tsv.zst"])
def test_s3_reads_what_a_disk_reads(tmp_path: Path, s3_url: str, suffix: str) -> None:
    rows = [{"_id": str(i), "text": f"text {i}"} for i in range(500)]
    path = write(tmp_path / f"c.{suffix}", rows)
    filesystem, place = connect(f"{s3_url}/formats/c.{suffix}", {})
    filesystem.pipe_file(place, path.read_bytes())
    assert read(f"{s3_url}/formats/c.{suffix}", target=3000)[0] == read(path, target=3000)[0]


@pytest.mark.s3
def test_an_object_replaced_since_planning(s3_url: str) -> None:
    url = f"{s3_url}/replaced/c.jsonl"
    filesystem, place = connect(url, {})
    filesystem.pipe_file(place, b'{"_id": "1", "text": "old"}')
    (file,) = list_inputs(url)
    filesystem.pipe_file(place, b'{"_id": "1", "text": "new"}')
    with pytest.raises(NightrankError, match="E_INPUT_CHANGED.*etag"):
        read_splits((Split(file, "whole", 0, file.size),), "corpus", source_of("corpus"))


@pytest.mark.collections
@pytest.mark.parametrize(
    ("name", "documents", "queries", "blank"),
    [("cranfield", 1400, 225, 2), ("scifact", 5183, None, 0), ("noveleval", 420, 21, 0)],
)
def test_real_collections(name: str, documents: int, queries: int | None, blank: int) -> None:
    folder = COLLECTIONS / name
    if not folder.exists():
        pytest.skip(f"the development collection {name} is not on this machine")
    accepted, rejects = read(folder / "corpus.jsonl.gz")
    assert len(accepted) + len(rejects) == documents
    assert [r["reason"] for r in rejects] == ["empty_text"] * blank
    assert len(read(folder / "corpus.jsonl.gz", empty_text="keep")[0]) == documents
    asked, refused = read(folder / "queries.jsonl.gz", "queries")
    assert not refused and asked and queries in (None, len(asked))


def test_a_vanished_file(tmp_path: Path) -> None:
    file = InputFile(str(tmp_path / "gone.csv"), 1, "sha256:0", "csv")
    with pytest.raises(NightrankError, match="E_INPUT_CHANGED"):
        read_splits((Split(file, "whole", 0, 1),), "corpus", source_of("corpus"))
