"""`show`: one query's list is the published one, with judgements and titles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from nightrank.config.file import load_config
from nightrank.generations.results import full_lists, generation_of, open_lake
from tests.support.collection import Collection, write_jsonl
from tests.support.lake import run, table

STEPS = [
    {"model": "toy:overlap", "depth": 20, "name": "fast"},
    {"model": "toy:overlap", "depth": 9},
]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return Collection(tmp_path_factory.mktemp("show"), documents=120, queries=40)


@pytest.fixture(scope="module")
def published(small: Collection) -> str:
    layout = {"query_shard_rows": 10, "document_shard_rows": 30}
    path = small.folder / "c.yaml"
    path.write_text(json.dumps(small.config(small.folder / "lake", rerank=STEPS, layout=layout)))
    run(str(path))
    return str(path)


def show(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    assert guarded(lambda **_: app(["show", *arguments])) == code
    said = capsys.readouterr()
    return said.err if code else said.out


def list_of(capsys: Any, config: str, query_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(show(capsys, config, query_id, "--json"))["list"]
    return found


def test_every_list_is_the_published_one(small: Collection, published: str, capsys: Any) -> None:
    loaded = load_config(published)
    store = open_lake(loaded.root, loaded.name)
    full = full_lists(store, generation_of(store)).to_pylist()
    titles = {row["_id"]: row["title"] for row in small.documents}
    relevant = {(q, d): r for q, d, r in small.qrels}
    assert len(list((small.folder / "lake").rglob("*queries*"))) > 1
    for query in small.queries[::7]:
        query_id = query["_id"]
        plain = json.loads(show(capsys, published, query_id, "--limit", "0", "--json"))
        wanted = [
            {k: v for k, v in row.items() if k not in ("query_id", "vertical")}
            for row in full
            if row["query_id"] == query_id
        ]
        wanted = [
            {**r, "title": titles[r["doc_id"]], "relevance": relevant.get((query_id, r["doc_id"]))}
            for r in wanted
        ]
        assert plain["list"] == wanted and len(wanted) == 20
        assert plain["query"]["text"] == query["text"]
        assert plain["query"]["policy"] == "fast@20+step2@9"
        assert plain["query"]["vertical"] == query["vertical"]
        kept = json.loads(show(capsys, published, query_id, "--limit", "5", "--json"))["list"]
        assert kept == wanted[:5]
        published_ids = [
            row["doc_id"] for row in table(loaded.root).to_pylist() if row["query_id"] == query_id
        ]
        assert [row["doc_id"] for row in kept] == published_ids


def test_what_is_printed_is_a_table(small: Collection, published: str, capsys: Any) -> None:
    found = [
        query
        for query in small.queries
        if any(row["relevance"] for row in list_of(capsys, published, query["_id"]))
    ]
    query_id, text = found[0]["_id"], found[0]["text"]
    said = show(capsys, published, query_id).splitlines()
    assert said[0] == f"query {query_id} (vertical {found[0]['vertical']}): {text}"
    assert said[1] == "generation 1: ranked by fast@20+step2@9, 20 candidates, 10 shown"
    names = "rank first score rerank first stage dense bm25 fast step2 judged document"
    assert " ".join(said[2].split()) == names
    assert [line.split()[0] for line in said[3:13]] == [str(n) for n in range(1, 11)]
    assert len({line.index(small.documents[0]["_id"][:2]) for line in said[3:13]}) == 1
    # Below the last step's depth a candidate has no score of it.
    assert "  -  " in said[12]


def test_a_query_without_a_list_says_why(
    tmp_path: Path, write_config: Callable[..., str], capsys: Any
) -> None:
    few = Collection(tmp_path / "in", documents=20, queries=3)
    few.queries += [{"_id": "void", "text": "zzz"}, {"_id": "!\x1b[1m", "text": "river"}]
    rejected = [{"_id": "blank", "text": " "}]
    write_jsonl(few.folder / "queries.jsonl", [*few.queries, *rejected])
    plain = few.config(tmp_path / "lake", queries={"reject_budget": 0.5}, evaluate={"qrels": None})
    plain["retrieve"] = {"depth": 5, "bm25": {"weight": 0}}
    plain["rerank"] = {"model": "toy:overlap", "depth": 5}
    config = write_config(plain)
    run(config)
    statuses = {row["query_id"]: row for row in table(tmp_path / "lake", "queries").to_pylist()}
    said = show(capsys, config, "void")
    assert f"generation 1: {statuses['void']['status']}" in said
    assert (statuses["void"]["status"] == "ranked") == ("shown" in said or "candidates" in said)
    error = show(capsys, config, "blank", code=4)
    assert "was rejected: empty_text" in error and "queries.jsonl, row 5" in error
    error = show(capsys, config, "q001", code=4)
    assert "no query 'q001' in generation 1; did you mean 'q0001'" in error
    assert error.count("\n") == 1
    assert "\x1b" not in show(capsys, config, "!\x1b[1m")


def test_older_generations_and_missing_judgements(
    tmp_path: Path, write_config: Callable[..., str], capsys: Any
) -> None:
    few = Collection(tmp_path / "in", documents=20, queries=3)
    config = write_config(few.config(tmp_path / "lake"))
    run(config)
    judged = json.loads(show(capsys, config, "q0001", "--limit", "1", "--json"))
    (relevant,) = [doc for query, doc, _ in few.qrels if query == "q0001"]
    shown = [row["doc_id"] for row in judged["list"] if row["relevance"]]
    assert [*shown, *(row["doc_id"] for row in judged["relevant_not_shown"])] == [relevant]
    write_jsonl(few.folder / "queries.jsonl", few.queries[:2])
    run(config)
    assert "generation 2" in show(capsys, config, "q0002", code=4)
    assert "generation 1: ranked" in show(capsys, config, "q0002", "--generation", "1")
    (few.folder / "qrels.tsv").unlink()
    assert "without judgements" in show(capsys, config, "q0001")
    assert "do not name" not in show(capsys, config, "q0001", "--set", "evaluate.qrels=null")
