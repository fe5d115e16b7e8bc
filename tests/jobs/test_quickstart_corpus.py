"""The quickstart's corpus, and the questions and judgements that go with it."""

import gzip
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from nightrank.cli import quickstart_corpus
from nightrank.cli.quickstart_corpus import Document, documents, extract
from nightrank.errors import NightrankError

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart"

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
def corpus() -> dict[str, Document]:
    return {document.name: document for document in documents()}


@pytest.fixture(scope="module")
def questions() -> dict[str, dict[str, str]]:
    lines = (QUICKSTART / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["_id"]: row for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def judgements() -> list[tuple[str, str, int]]:
    lines = (QUICKSTART / "qrels.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "query-id\tcorpus-id\tscore"
    rows = [line.split("\t") for line in lines[1:]]
    return [(question, document, int(grade)) for question, document, grade in rows]


def test_the_corpus_is_large_and_has_the_functions_everybody_knows(
    corpus: dict[str, Document],
) -> None:
    assert len(corpus) >= 3000
    assert {
        "asyncio.gather",
        "collections.Counter",
        "concurrent.futures.Executor.submit",
        "dict.get",
        "json.loads",
        "math.floor",
        "multiprocessing.Pool",
        "os.path.join",
        "os.stat",
        "os.walk",
        "pathlib.Path.mkdir",
        "random.choice",
        "re.sub",
        "sqlite3.connect",
        "str.split",
        "subprocess.run",
        "unittest.TestCase.assertRaises",
    } <= set(corpus)


def test_names_are_the_public_ones(corpus: dict[str, Document]) -> None:
    for name in corpus:
        assert not any(part.startswith("_") for part in name.split(".")), name
        assert not name.startswith(("posixpath", "genericpath", "builtins.", "tkinter", "idlelib"))
        assert not {"test", "tests"} & set(name.split(".")), name


def test_every_text_says_something_and_says_it_once(corpus: dict[str, Document]) -> None:
    texts = Counter(document.text for document in corpus.values())
    assert max(texts.values()) == 1
    for document in corpus.values():
        assert len(document.text.split()) >= quickstart_corpus.MIN_WORDS
        assert len(document.text) <= quickstart_corpus.MAX_CHARS
        assert document.title.startswith(document.name)
        assert document.kind in ("module", "class", "function", "method")


def test_signatures_leave_out_self_and_annotations(corpus: dict[str, Document]) -> None:
    assert corpus["os.walk"].title == "os.walk(top, topdown=True, onerror=None, followlinks=False)"
    assert corpus["threading.Timer.cancel"].title == "threading.Timer.cancel()"
    assert corpus["dict.get"].title == "dict.get(key, default=None)"
    assert corpus["pathlib.PurePath.suffix"].title == "pathlib.PurePath.suffix"


def test_the_file_is_the_same_each_time_and_compressed_by_its_name(tmp_path: Path) -> None:
    plain, packed = tmp_path / "corpus.jsonl", tmp_path / "corpus.jsonl.gz"
    assert extract(plain) == extract(packed)
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    rows = [json.loads(line) for line in plain.read_text(encoding="utf-8").splitlines()]
    assert list(rows[0]) == ["_id", "title", "text", "module", "kind"]
    names = [row["_id"] for row in rows]
    assert names == sorted(set(names))


def test_a_python_without_documentation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart_corpus, "_from_source", lambda: iter(()))
    monkeypatch.setattr(quickstart_corpus, "INSPECTED", "")
    with pytest.raises(NightrankError) as failure:
        documents()
    assert failure.value.code == "E_EMPTY"


def test_questions_are_numbered_and_have_a_topic(questions: dict[str, dict[str, str]]) -> None:
    assert list(questions) == [f"q{n:03d}" for n in range(1, len(questions) + 1)]
    assert len(questions) >= 80
    for row in questions.values():
        assert set(row) == {"_id", "text", "vertical"}
        assert row["text"].strip() and row["vertical"].isalpha()


def test_judgements_fit_the_questions_and_the_corpus(
    corpus: dict[str, Document],
    questions: dict[str, dict[str, str]],
    judgements: list[tuple[str, str, int]],
) -> None:
    assert len({(question, document) for question, document, _ in judgements}) == len(judgements)
    assert {grade for *_, grade in judgements} == {0, 1, 2}
    assert {question for question, *_ in judgements} == set(questions)
    relevant = [document for _, document, grade in judgements if grade > 0]
    # Another minor version of Python may have lost a few.
    assert sum(document in corpus for document in relevant) >= 0.98 * len(relevant)
    direct = {question for question, document, grade in judgements if grade == 2}
    assert direct == set(questions)


def test_every_question_has_a_direct_answer_in_this_python(
    corpus: dict[str, Document],
    questions: dict[str, dict[str, str]],
    judgements: list[tuple[str, str, int]],
) -> None:
    found = {question for question, name, grade in judgements if grade == 2 and name in corpus}
    assert found == set(questions)


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
