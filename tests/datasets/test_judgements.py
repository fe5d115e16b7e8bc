"""Judgements of documents and queries that do not exist, wherever measures are shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from nightrank.datasets import judgements
from nightrank.datasets.judgements import look_up
from nightrank.generations.results import manifests_of, open_lake
from nightrank.storage.log import Log
from nightrank.storage.reader import Reader
from tests.support.collection import Collection, write_jsonl
from tests.support.lake import run

Config = Callable[..., str]
NONE = "none of the 20 judged documents is in the corpus: compare the ids, e.g. 'doc-"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return Collection(tmp_path_factory.mktemp("small"), documents=300, queries=20)


def written(small: Collection, path: Path, query: str = "q", document: str = "d") -> dict[str, Any]:
    """Judgements of one document a query, with other prefixes to their ids."""
    ids = (
        [f"{document}{i}" for i in range(20)] if document != "d" else [d for _, d, _ in small.qrels]
    )
    columns = {"query-id": [q.replace("q", query, 1) for q, _, _ in small.qrels], "corpus-id": ids}
    pq.write_table(pa.table({**columns, "score": [1] * 20}), path)
    return {"qrels": str(path)}


def typed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    return guarded(lambda **_: app(list(arguments))), capsys.readouterr().out


def test_documents_of_other_ids_are_told_everywhere(
    small: Collection, tmp_path: Path, write_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate = written(small, tmp_path / "other.parquet", document="doc-")
    config = write_config(small.config(tmp_path / "lake", evaluate=evaluate))
    for published in (False, True):
        code, out = typed(capsys, "doctor", config, "--json")
        found = [json.loads(line) for line in out.splitlines()]
        found = [line for line in found if line["check"] == "judgements"]
        assert [line["state"] for line in found] == ["warn", "ok"] and code == 0
        assert found[0]["found"].startswith(NONE) and "'d00000'" in found[0]["found"]
        assert ("generation 1" if published else "the inputs") in found[1]["found"]
        code, out = typed(capsys, "run", config)
        assert code == 0 and f"warning: {NONE}" in out
        assert "0 of 20 judged documents in the corpus, 20 of 20 judged queries among" in out
    code, out = typed(capsys, "run", config, "--json")
    known = json.loads(out.splitlines()[-1])["judgements"]
    assert known["documents"]["known"] == 0 and known["documents"]["warning"].startswith(NONE)
    assert known["queries"] == {
        "kind": "queries", "judged": 20, "looked_up": 20, "known": 20, "unknown_id": "",
        "known_id": "q0000", "warning": "",
    }  # fmt: skip
    code, out = typed(capsys, "evaluate", config)
    assert code == 0 and f"warning: {NONE}" in out
    page = Path(out.splitlines()[-1].removeprefix("report: ")).read_text()
    assert "Warning: none of the 20 judged documents" in page and "0 of 20" in page
    code, out = typed(capsys, "evaluate", config, "--json")
    assert json.loads(out)["judgements"] == known


def test_queries_of_other_ids(
    small: Collection, tmp_path: Path, write_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate = written(small, tmp_path / "other.parquet", query="topic-")
    config = write_config(small.config(tmp_path / "lake", evaluate=evaluate))
    assert guarded(lambda **_: app(["run", config])) == 0
    words = "none of the 20 judged queries is among the queries: compare the ids, e.g. 'topic-0000'"
    assert words in capsys.readouterr().err
    assert guarded(lambda **_: app(["evaluate", config])) == 4
    assert words in capsys.readouterr().err
    _, out = typed(capsys, "doctor", config)
    assert words in out


def test_a_good_fit_is_no_warning_and_a_large_input_is_not_read(
    small: Collection,
    tmp_path: Path,
    write_config: Config,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluate = written(small, tmp_path / "same.parquet")
    config = write_config(small.config(tmp_path / "lake", evaluate=evaluate))
    code, out = typed(capsys, "doctor", config)
    judged = len({document for _, document, _ in small.qrels})
    assert f"{judged} of {judged} judged documents in the corpus, by the inputs" in out
    monkeypatch.setattr("nightrank.diagnosis.judgements.WHOLE_BYTES", 1)
    _, out = typed(capsys, "doctor", config)
    assert f"{judged} judged documents, not looked up in" in out and "`run` says" in out
    _, out = typed(capsys, "run", config)
    assert f"{judged} of {judged} judged documents in the corpus, 20 of 20" in out
    assert "warning: " not in out


def test_a_folder_of_judgements_is_refused(
    small: Collection, tmp_path: Path, write_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "qrels").mkdir()
    for name in ("test.tsv", "train.tsv"):
        (tmp_path / "qrels" / name).write_text("query-id\tcorpus-id\tscore\nq0000\td00000\t1\n")
    evaluate = {"qrels": str(tmp_path / "qrels")}
    config = write_config(small.config(tmp_path / "lake", evaluate=evaluate))
    assert guarded(lambda **_: app(["run", config])) == 4
    assert "judgements are one file, found 2" in capsys.readouterr().err


def test_what_a_night_deletes_is_no_longer_known(
    tmp_path: Path, write_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Collection(tmp_path / "in", documents=300, queries=5)
    config = write_config(small.config(tmp_path / "lake"))
    run(config)
    added = [{"_id": f"n{i}", "text": "river"} for i in range(20)]
    write_jsonl(tmp_path / "in" / "corpus.jsonl", small.documents[:-50] + added)
    run(config)
    store = open_lake(str(tmp_path / "lake"), "tiny")
    entry = Log(store, "results").current()
    assert entry is not None and entry.generation == 2
    corpus = manifests_of(store, entry)[2]
    assert len(corpus.documents) == 2
    ids = [row["_id"] for row in small.documents] + ["n3", "m3"]
    found = look_up(pa.array(ids), corpus, Reader(store))
    assert (found.judged, found.looked_up, found.known) == (302, 302, 251)
    assert (found.unknown_id, found.known_id) == ("d00250", "d00000")
    # Of a larger corpus a sample by hash, which reads no more ids than it may.
    monkeypatch.setattr(judgements, "MOST_ROWS", 100)
    found = look_up(pa.array(ids), corpus, Reader(store))
    assert found.judged == 302 and 30 < found.looked_up < 302
    assert 0.6 < found.known / found.looked_up < 1
