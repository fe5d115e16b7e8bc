"""Runs in TREC's form."""

import io

import numpy as np
import pyarrow as pa
import pytest

from nightrank.errors import NightrankError
from nightrank.exports.trec import write_run


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
