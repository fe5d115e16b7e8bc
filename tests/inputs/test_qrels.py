"""Judgements in TREC's form, as tables with a header, and as Parquet."""

import gzip
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from nightrank.errors import NightrankError
from nightrank.inputs.qrels import QRELS_SCHEMA, read_qrels

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
        ("q1 0 d1 high\n", r"an integer.*line 1"),
        ("q1 0 d1 0.5\n", r"an integer"),
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
    with pytest.raises(NightrankError, match="gzip file ends in the middle"):
        read_qrels(io.BytesIO(gzip.compress(TREC.encode())[:-9]))


def parquet(**columns):
    sink = io.BytesIO()
    pq.write_table(pa.table({name.replace("__", "-"): c for name, c in columns.items()}), sink)
    return io.BytesIO(sink.getvalue())


@pytest.mark.parametrize(
    "text",
    [
        "qid\tdocid\tlabel\nq1\td1\t2\nq1\td2\t0\nq2\té\t-1\n",
        "Query_ID\titer\tDoc-Id\trel\nq1\t0\td1\t2\nq1\t0\td2\t0\nq2\t0\té\t-1\r\n",
        '"query-id"\t"corpus-id"\t"score"\nq1\td1\t+2\nq1\td2\t0\nq2\té\t-1\n',
    ],
)
def test_headers_in_other_words(text):
    assert rows(read_qrels(io.StringIO(text, newline=""))) == ROWS
    assert rows(read_qrels(io.BytesIO(zstandard.compress(text.encode())))) == ROWS


def test_a_quote_in_an_id_is_a_character():
    text = 'query-id\tcorpus-id\tscore\n"q1\td1\t1\nq2\t"d2"\t1\n'
    assert rows(read_qrels(io.StringIO(text))) == [('"q1', "d1", 1), ("q2", '"d2"', 1)]


@pytest.mark.parametrize(
    "columns",
    [
        {"query_id": ["q1", "q1", "q2"], "doc_id": ["d1", "d2", "é"], "relevance": [2, 0, -1]},
        {"query__id": ["q1", "q1", "q2"], "corpus__id": ["d1", "d2", "é"], "score": [2.0, 0, -1]},
        {
            "label": pa.array([2, 0, -1], pa.int8()),
            "more": [[1], [], []],
            "docid": pa.array(["d1", "d2", "é"]).dictionary_encode(),
            "qid": pa.array(["q1", "q1", "q2"], pa.large_string()),
        },
    ],
)
def test_parquet_judgements(columns):
    assert rows(read_qrels(parquet(**columns))) == ROWS
    ids = {"qid": [1, 2], "docno": pa.array([3, 2**63], pa.uint64()), "rel": [True, False]}
    assert rows(read_qrels(parquet(**ids))) == [("1", "3", 1), ("2", str(2**63), 0)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"qid": ["q"], "text": ["PRIVATE"]}, "query_id, doc_id and relevance, found: qid, text"),
        ({"qid": ["q", None], "docid": ["d", "e"], "rel": [1, 1]}, "query_id, found null.*row 1"),
        ({"qid": ["q", "q"], "docid": ["d", "e"], "rel": [1, 0.5]}, "integer.*row 1"),
        ({"qid": ["q"], "docid": ["d"], "rel": [float("nan")]}, "integer.*row 0"),
        ({"qid": ["q"], "docid": ["d"], "rel": ["PRIVATE"]}, "integer.*row 0"),
        ({"qid": ["q"], "docid": [[1]], "rel": [1]}, "doc_id: expected strings.*found list"),
        ({"qid": ["q", "q"], "docid": ["d", "d"], "rel": [1, 0]}, "twice, 0 and 1.*rows 0 and 1"),
        ({"qid": pa.array([], pa.string()), "docid": pa.array([], pa.string()),
          "rel": pa.array([], pa.int8())}, "expected judgements, found none"),
    ],
)  # fmt: skip
def test_parquet_that_holds_no_judgements(columns, message):
    with pytest.raises(NightrankError, match=message) as caught:
        read_qrels(parquet(**columns), "test.parquet")
    assert "PRIVATE" not in str(caught.value) and "test.parquet" in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"PAR1 and no more",
        zstandard.compress(TREC.encode())[:-3],
        b"0\tPRIVATE passage zero\n1\tPRIVATE passage one\n",
        b"a PRIVATE line\n",
        b"a b c PRIVATE\n",
        b"_id\ttext\n1\tPRIVATE\n",
    ],
)
def test_another_file_is_refused_without_a_word_of_it(data):
    with pytest.raises(NightrankError, match=r"E_SCHEMA.*other\.txt") as caught:
        read_qrels(io.BytesIO(data), "other.txt")
    assert "PRIVATE" not in str(caught.value) and "\n" not in str(caught.value)
