from pathlib import Path

import pytest

from nightrank.errors import NightrankError
from nightrank.training.judged_collections import read_qrels
from nightrank.training.mining import Group, mine, near_duplicates

DENSE = {"q": [("d1", 0.9), ("d2", 0.8), ("d3", 0.5), ("d4", 0.4)]}
LEXICAL = {"q": [("d5", 9.0), ("d2", 8.0)]}


def test_unjudged_candidates_are_negatives_in_their_order():
    assert mine([DENSE], {"q": {"d2": 1}}, max_negatives=2, guard_ratio=None) == [
        Group("q", "d2", ("d1", "d3"))
    ]


def test_several_first_stages_alternate():
    assert mine([DENSE, LEXICAL], {"q": {"d3": 1}}, max_negatives=9, guard_ratio=None) == [
        Group("q", "d3", ("d1", "d5", "d2", "d4"))
    ]


def test_the_guard_drops_unjudged_documents_near_the_positive_but_not_judged_ones():
    qrels = {"q": {"d3": 1, "d1": 0}}
    assert mine([DENSE], qrels, max_negatives=9, guard_ratio=0.98) == [
        Group("q", "d3", ("d1", "d4"))
    ]


def test_copies_of_a_positive_are_no_negatives():
    same = {("d1", "d2")}
    groups = mine(
        [DENSE],
        {"q": {"d2": 1}, "unknown": {"d9": 1}},
        max_negatives=9,
        guard_ratio=None,
        same_text=lambda one, other: (one, other) in same,
    )
    assert groups == [Group("q", "d2", ("d3", "d4"))]


def test_near_duplicates_by_words_not_by_form():
    reported = ["What is (are) Glaucoma ?", "one two three four five six seven eight nine ten"]
    texts = {
        "same": "what IS are glaucoma",
        "close": "one two three four five six seven eight nine ten eleven",
        "far": "one two three four five",
        "other": "what is a cataract",
    }
    assert near_duplicates(texts, reported) == {"same", "close"}


def test_judgements_have_no_quoting_and_errors_no_text(tmp_path: Path) -> None:
    path = tmp_path / "qrels.tsv"
    path.write_text('query-id\tcorpus-id\tscore\n"q1\td1\t1\nq"2\t"d2"\t0\n')
    assert read_qrels(path) == {'"q1': {"d1": 1}, 'q"2': {'"d2"': 0}}
    for bad in ("q\td\tPRIVATE\n", "q\tPRIVATE\n"):
        path.write_text("query-id\tcorpus-id\tscore\n" + bad)
        with pytest.raises(NightrankError, match=r"qrels\.tsv, line 2") as caught:
            read_qrels(path)
        assert "PRIVATE" not in str(caught.value)
