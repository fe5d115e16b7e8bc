"""TSV without quoting, headers of every kind, and files without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightrank.errors import NightrankError
from nightrank.inputs import lines as lines_module
from tests.support.input_files import packed, read, reasons


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(packed(data, path.suffix[1:]))
    return path


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("suffix", ["tsv", "tsv.gz", "tsv.zst"])
def test_a_quote_in_tsv_is_a_character(tmp_path: Path, end: bytes, suffix: str) -> None:
    texts = [b'"one', b'two"', b'"three"', b'""', b'f"o"ur', b'"', b"'five'", b"s\\ix\\", b"a\rb"]
    rows = [b"%d\t%s" % (i, text) for i, text in enumerate(texts)]
    path = written(tmp_path / f"c.{suffix}", end.join([b"_id\ttext", *rows]))
    accepted, rejects = read(path)
    assert not rejects
    assert [row["text"].encode() for row in accepted] == texts


def test_tsv_rows_of_the_wrong_width_keep_their_numbers(tmp_path: Path) -> None:
    lines = [
        b"x\t_id\ttext\tyear",
        b"1\ta\tfine\t",
        b"",
        b"1\tb",
        b'1\tc\t"a\tb"\t7',
        b"1\td\t\xff\t",
    ]
    lines += [b"1\te\xfe\tx\ty\tz", b"1\t\tt\t", b"1\tf\t\t", b"  ", b"1\tg\tlast\t12"]
    path = written(tmp_path / "c.tsv", b"\xef\xbb\xbf" + b"\n".join(lines))
    accepted, rejects = read(path, attributes={"year": "int64"})
    shown = [(r["row"], r["doc_id"], r["year"]) for r in accepted]
    assert shown == [(0, "a", None), (8, "g", 12)]
    bad = ["bad_row", "bad_row", "invalid_utf8", "bad_row", "empty_id", "empty_text", "bad_row"]
    assert reasons(rejects) == list(zip(range(1, 8), bad, strict=True))


cell = st.text(
    st.characters(blacklist_characters="\t\n\r", blacklist_categories=("Cs",)), max_size=6
) | st.sampled_from(['"', '"a', 'b"', '""', "\\", ","])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(cell, min_size=1, max_size=3), max_size=20),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.integers(1, 40),
)
def test_tsv_rows_are_lines(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[list[str]],
    end: str,
    ended: bool,
    block: int,
) -> None:
    text = end.join(["_id\ttext", *("\t".join(["i", *row]) for row in rows)]) + end * ended
    path = written(tmp_path_factory.mktemp("t") / "c.tsv", text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "BLOCK_BYTES", block)
        accepted, rejects = read(path, empty_text="keep")
    good = [(i, row[0]) for i, row in enumerate(rows) if len(row) == 1]
    assert [(row["row"], row["text"]) for row in accepted] == good
    bad = [(i, "bad_row") for i, row in enumerate(rows) if len(row) != 1]
    assert reasons(rejects) == bad


@pytest.mark.parametrize(
    ("suffix", "header"),
    [
        ("csv", b"_id,text"),
        ("csv", b" _id, text"),
        ("csv", b'"_id" ,"text"'),
        ("csv", b'\xef\xbb\xbf"_id","text"'),
        ("csv", b"_id\t, text \r"),
        ("csv", b"n,_id,n,,text,"),
        ("tsv", b"_id\ttext"),
        ("tsv", b"\xef\xbb\xbf _id \t text \r"),
        ("tsv", b"n\t_id\tn\t\ttext\t"),
    ],
)
def test_headers_that_do(tmp_path: Path, suffix: str, header: bytes) -> None:
    mark = b"," if suffix == "csv" else b"\t"
    fields = {6: b"1,a,2,3,fine,4", 2: b"a,fine"}[header.count(mark) + 1]
    path = written(tmp_path / f"c.{suffix}", header + b"\n" + fields.replace(b",", mark) + b"\n")
    (row,), rejects = read(path)
    assert (row["doc_id"], row["text"], row["row"]) == ("a", "fine", 0) and not rejects


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"0,PRIVATE passage zero\n1,PRIVATE one\n", "seems to have no header.*2 fields.*header"),
        (b"PRIVATE\n", "seems to have no header.*1 field "),
        (b"_id,text,text\n1,2,PRIVATE\n", "names 'text' more than once"),
        (b"_id, text,text \n1,2,PRIVATE\n", "names 'text' more than once"),
        (b"_id,body\n1,PRIVATE\n", "'text' not found; found: _id, body"),
        (b"\xff\xfe_\0i\0d\0,\0\n", "not UTF-8"),
        (b"", "no column"),
    ],
)
def test_headers_that_do_not(tmp_path: Path, suffix: str, data: bytes, words: str) -> None:
    data = data.replace(b",", b"\t") if suffix == "tsv" else data
    with pytest.raises(NightrankError, match=words) as caught:
        read(written(tmp_path / f"c.{suffix}", data))
    assert caught.value.code == "E_SCHEMA" and "PRIVATE" not in str(caught.value)


def test_a_quoted_tsv_header_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "c.tsv", b'"_id"\t"text"\n"1"\t"PRIVATE"\n')
    with pytest.raises(NightrankError, match="double quotes") as caught:
        read(path)
    assert "PRIVATE" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "tsv.gz", "csv.zst"])
@pytest.mark.parametrize("text", [b"zero", b"z\xc3\xa9ro"])
def test_a_file_without_a_header(tmp_path: Path, suffix: str, text: bytes) -> None:
    data = b"\xef\xbb\xbf0,%s,1\n1,one\n\n2,\xff,3\n3,three,\n" % text
    data = data if suffix.startswith("csv") else data.replace(b",", b"\t")
    path = written(tmp_path / f"c.{suffix}", data)
    types: dict[str, Any] = {"header": ["id", "text", "n"], "attributes": {"n": "int64"}}
    accepted, rejects = read(path, **types)
    shown = [(r["row"], r["doc_id"], r["text"], r["n"]) for r in accepted]
    assert shown == [(0, "0", text.decode(), 1), (3, "3", "three", None)]
    assert reasons(rejects) == [(1, "bad_row"), (2, "invalid_utf8")]
    named = read(path, header=["a", "b", "c"], columns={"id": "a", "text": "b"})[0]
    assert [row["doc_id"] for row in named] == ["0", "3"]


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_a_configured_header_and_one_in_the_file(tmp_path: Path, suffix: str) -> None:
    data = b"_id,text\n1,t\n" if suffix == "csv" else b"_id\ttext\n1\tt\n"
    path = written(tmp_path / f"c.{suffix}", data)
    with pytest.raises(NightrankError, match="is a header itself"):
        read(path, header=["id", "text"])
    with pytest.raises(NightrankError, match="'text' not found; found: body, id"):
        read(path, header=["id", "body"], columns={"id": "id"})
    written(path, b"")
    assert read(path, header=["id", "text"]) == ([], [])


@pytest.mark.parametrize(
    "bad", [{"header": ["a", "a "]}, {"header": [""]}, {"header": ["id"], "format": "jsonl"}]
)
def test_a_header_that_names_nothing(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="header:"):
        read("unused", **bad)
