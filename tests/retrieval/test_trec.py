"""Qrels and runs in TREC's and BEIR's forms."""

import gzip
import io

import numpy as np
import pyarrow as pa
import pytest

from nightrank.errors import NightrankError
from nightrank.retrieval.trec import QRELS_SCHEMA, read_qrels, write_run

TREC = "q1 0 d1 2\nq1\t0  d2 0\n\nq2 Q0 é -1\r\n"
BEIR = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\té\t-1\n"
ROWS = [("q1", "d1", 2), ("q1", "d2", 0), ("q2", "é", -1)]


def rows(table):
    assert table.schema == QRELS_SCHEMA
    return list(zip(*(c.to_pylist() for c in table.columns), strict=True))


@pytest.mark.parametrize("text", [TREC, BEIR, "\ufeff" + BEIR, BEIR.replace("\n", "\r\n")])
def test_both_forms_are_read_from_text_bytes_and_gzip(text):
    for file in (
        io.StringIO(text, newline=""),
        io.BytesIO(text.encode()),
        io.BytesIO(gzip.compress(text.encode())),
    ):
        assert rows(read_qrels(file)) == ROWS


def test_ids_in_the_beir_form_may_hold_spaces():
    text = "query-id\tcorpus-id\tscore\na b\tc d\t1\n"
    assert rows(read_qrels(io.StringIO(text))) == [("a b", "c d", 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q1 0 d1 1\nq1 0 d2\n", r"line 2.*"),
        ("q1 0 d1 1\n\nq1 0 d2 1 more\n", r"line 3"),
        ("q1 0 d1 high\n", r"integer, found 'high'.*line 1"),
        ("q1 0 d1 0.5\n", r"integer, found '0.5'"),
        ("q1 0 d1 99999999999\n", r"integer"),
        ("query-id\tcorpus-id\tscore\nq1\td1\t1\nq1 d2 1\n", r"line 3"),
        ("q1 0 d1 1\nq2 0 d1 1\nq1 0 d1 2\n", r"judged twice, 1 and 2.*lines 1 and 3"),
    ],
)
def test_a_bad_line_is_named_with_its_number(text, message):
    with pytest.raises(NightrankError, match=message) as caught:
        read_qrels(io.StringIO(text), "test.tsv")
    assert caught.value.code == "E_SCHEMA"
    assert "test.tsv" in str(caught.value)


def test_a_repeated_judgement_is_kept_once_where_it_first_stood():
    text = "q2 0 d9 1\nq1 0 d1 1\nq2 0 d9 1\nq1 0 d2 0\n"
    assert rows(read_qrels(io.StringIO(text))) == [
        ("q2", "d9", 1),
        ("q1", "d1", 1),
        ("q1", "d2", 0),
    ]


@pytest.mark.parametrize("text", ["", "\n \n", "query-id\tcorpus-id\tscore\n"])
def test_a_file_without_judgements_is_refused(text):
    with pytest.raises(NightrankError, match="E_EMPTY"):
        read_qrels(io.StringIO(text))


def test_bytes_that_are_not_utf8_or_not_whole_gzip_are_refused():
    with pytest.raises(NightrankError, match="not UTF-8.*line 2"):
        read_qrels(io.BytesIO(b"q1 0 d1 1\nq1 0 \xff 1\n"))
    with pytest.raises(NightrankError, match="damaged gzip"):
        read_qrels(io.BytesIO(gzip.compress(TREC.encode())[:-9]))


def run_table(query_id, doc_id, rank, score):
    return pa.table(
        {
            "query_id": query_id,
            "doc_id": doc_id,
            "rank": pa.array(rank, pa.int32()),
            "score": pa.array(score, pa.float32()),
        }
    )


def test_a_run_has_trec_lines_and_its_scores_come_back_bit_for_bit():
    score = np.random.default_rng(0).normal(size=500).astype(np.float32)
    score[1] = np.nextafter(score[0], np.float32(9))
    table = run_table(["q"] * 500, [f"d{i}" for i in range(500)], range(1, 501), score)
    file = io.BytesIO()
    write_run(table, file, "nightrank")
    lines = [line.split(" ") for line in file.getvalue().decode().splitlines()]
    assert lines[3] == ["q", "Q0", "d3", "4", f"{score[3]:.9g}", "nightrank"]
    assert np.array([line[4] for line in lines]).astype(np.float32).tobytes() == score.tobytes()


def test_an_empty_run_is_an_empty_file():
    file = io.BytesIO()
    table = run_table(pa.array([], pa.string()), pa.array([], pa.string()), [], [])
    write_run(table, file, "t")
    assert file.getvalue() == b""


@pytest.mark.parametrize("bad", ["a b", "a\tb", "", "a\n"])
def test_ids_that_the_format_cannot_hold_are_refused(bad):
    with pytest.raises(NightrankError, match=r"E_SCHEMA.*doc_id.*row 1"):
        write_run(run_table(["q", "q"], ["d", bad], [1, 2], [2, 1]), io.BytesIO(), "t")
