"""The quickstart: the sample that the package ships, and the command that runs it."""

import gzip
import hashlib
import json
import re
from collections import Counter, defaultdict
from importlib.resources import files
from pathlib import Path

import pytest

from nightrank.cli.quickstart import copy_sample

SAMPLE = files("nightrank") / "quickstart"
# Figures and judgements belong to exactly these documents.
CORPUS_SHA256 = "cc17d34c64c4b1ccb75bd8ee8b6005d821394c98097a060e0b543b986b9ce62c"
# Judged, but new in Python 3.12.
NOT_IN_CORPUS = {"pathlib.Path.walk"}

# Parts of names that are everyday words or names of formats: they give nothing away.
ORDINARY = {
    "base64",
    "date",
    "decimal",
    "html",
    "json",
    "path",
    "pool",
    "process",
    "queue",
    "random",
}
ORDINARY |= {"error", "set", "time", "xml"}


@pytest.fixture(scope="module")
def corpus() -> dict[str, dict[str, str]]:
    lines = gzip.decompress((SAMPLE / "corpus.jsonl.gz").read_bytes()).decode().splitlines()
    return {row["_id"]: row for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def questions() -> dict[str, dict[str, str]]:
    lines = (SAMPLE / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["_id"]: row for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def judgements() -> list[tuple[str, str, int]]:
    lines = (SAMPLE / "qrels.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "query-id\tcorpus-id\tscore"
    rows = [line.split("\t") for line in lines[1:]]
    return [(question, document, int(grade)) for question, document, grade in rows]


def test_the_corpus_is_the_one_that_was_judged(corpus: dict[str, dict[str, str]]) -> None:
    lines = gzip.decompress((SAMPLE / "corpus.jsonl.gz").read_bytes())
    assert hashlib.sha256(lines).hexdigest() == CORPUS_SHA256
    assert len(corpus) == lines.count(b"\n") == 4814
    assert max(Counter(row["text"] for row in corpus.values()).values()) == 1
    for row in corpus.values():
        assert list(row) == ["_id", "title", "text", "module", "kind"]
        assert row["kind"] in ("module", "class", "function", "method")


def test_the_licence_of_the_corpus_comes_with_it(tmp_path: Path) -> None:
    copy_sample(tmp_path)
    text = (tmp_path / "LICENSE-PYTHON.txt").read_text(encoding="utf-8")
    assert "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2" in text
    # Modules with notices of their own, all of which have documents in the corpus.
    for author in ("Vinay Sajip", "Timothy O'Malley", "Lars Gustaebel", "Secret Labs AB"):
        assert author in text


def test_files_that_exist_are_kept(tmp_path: Path) -> None:
    config = copy_sample(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    config.write_text("name: mine\n")
    (tmp_path / "qrels.tsv").unlink()
    assert copy_sample(tmp_path) == config
    assert config.read_text() == "name: mine\n"
    assert (tmp_path / "qrels.tsv").read_bytes() == (SAMPLE / "qrels.tsv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_questions_are_numbered_and_have_a_topic(questions: dict[str, dict[str, str]]) -> None:
    assert list(questions) == [f"q{n:03d}" for n in range(1, len(questions) + 1)]
    assert len(questions) >= 80
    for row in questions.values():
        assert set(row) == {"_id", "text", "vertical"}
        assert row["text"].strip() and row["vertical"].isalpha()


def test_judgements_fit_the_questions_and_the_corpus(
    corpus: dict[str, dict[str, str]],
    questions: dict[str, dict[str, str]],
    judgements: list[tuple[str, str, int]],
) -> None:
    assert len({(question, document) for question, document, _ in judgements}) == len(judgements)
    assert {grade for *_, grade in judgements} == {0, 1, 2}
    assert {question for question, *_ in judgements} == set(questions)
    assert {document for _, document, _ in judgements} - set(corpus) == NOT_IN_CORPUS
    direct = {question for question, document, grade in judgements if grade == 2}
    assert direct == set(questions)


def test_every_question_has_a_direct_answer_in_the_corpus(
    corpus: dict[str, dict[str, str]],
    questions: dict[str, dict[str, str]],
    judgements: list[tuple[str, str, int]],
) -> None:
    answered = {question for question, name, grade in judgements if grade == 2 and name in corpus}
    assert answered == set(questions)


def test_no_question_names_its_answer(
    questions: dict[str, dict[str, str]], judgements: list[tuple[str, str, int]]
) -> None:
    answers: dict[str, set[str]] = defaultdict(set)
    for question, document, grade in judgements:
        if grade == 2:
            answers[question] |= set(document.lower().split("."))
    for question, row in questions.items():
        words = re.findall(r"\w+", row["text"].lower())
        assert not answers[question] & set(words) - ORDINARY, question
        assert not re.search(r"\w\.\w|\w_\w|\(\)", row["text"]), question
