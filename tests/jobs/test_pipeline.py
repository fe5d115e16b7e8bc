"""The whole pipeline on toy models: what is published, and what it does not depend on."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import Stemmer

from nightrank.cli.verify import verify
from nightrank.errors import NightrankError
from nightrank.generations.results import open_lake
from nightrank.models.registry import (
    load_bi_encoder,
    load_cross_encoder,
    load_tokenizer,
    resolve_bi_encoder,
    resolve_cross_encoder,
)
from nightrank.storage.dataset import Dataset
from tests.support.collection import Collection, write_jsonl
from tests.support.lake import digests, execute, opened, run, table

Config = Callable[..., str]


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """A collection in which every text stands in three documents: ties everywhere."""
    made = Collection(tmp_path_factory.mktemp("tied"), documents=150, queries=25, seed=3)
    copies = [
        {**row, "_id": f"{row['_id']}-{copy}"} for row in made.documents for copy in ("a", "b", "c")
    ]
    write_jsonl(made.folder / "corpus.jsonl", copies)
    made.documents = copies
    return made


@pytest.mark.ray
def test_the_bytes_depend_on_neither_workers_nor_executor(
    collection: Collection, tmp_path: Path, write_config: Config, ray_cluster: None
) -> None:
    layout = {"document_shard_rows": 150, "query_shard_rows": 20}
    plain = collection.config(tmp_path / "serial", layout=layout)
    run(write_config(plain, "serial.yaml"))
    cluster = {"executor": "ray", "pools": {n: {"workers": 2} for n in ("general", "model")}}
    run(write_config({**plain, "root": str(tmp_path / "ray"), "cluster": cluster}, "ray.yaml"))
    assert digests(tmp_path / "ray") == digests(tmp_path / "serial")


@pytest.mark.parametrize(
    "sets",
    [
        ["layout.document_shard_rows=7", "layout.query_shard_rows=3"],
        ["layout.document_shard_rows=100", "index.shard_bytes=20000"],
        ["layout.document_shard_rows=50", "index.shard_bytes=9000", "search.memory_bytes=40000"],
        ["layout.query_shard_rows=1", "rerank.unit_tokens=500"],
    ],
)
def test_the_rows_do_not_depend_on_shards_groups_or_units(
    tied: Collection, tmp_path: Path, write_config: Config, sets: list[str]
) -> None:
    whole = write_config(tied.config(tmp_path / "whole"), "whole.yaml")
    parts = write_config(tied.config(tmp_path / "parts"), "parts.yaml")
    run(whole)
    run(parts, *sets)
    assert table(tmp_path / "parts").equals(table(tmp_path / "whole"))


def lexical_scores(asked: str, texts: list[str]) -> np.ndarray:
    """BM25 written out: no index, no statistics kept. The made-up words are no stop words."""
    stem = Stemmer.Stemmer("english").stemWord
    words = [[stem(w) for w in text.lower().split()] for text in texts]
    mean = sum(map(len, words)) / len(words)
    scores = np.zeros(len(texts))
    for term in (stem(w) for w in asked.lower().split()):
        df = sum(term in found for found in words)
        idf = np.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
        for j, found in enumerate(words):
            tf = found.count(term)
            scores[j] += idf * tf / (tf + 0.9 * (0.6 + 0.4 * len(found) / mean))
    return scores.astype(np.float32)


def fused_order(
    dense: np.ndarray, lexical: np.ndarray, by_id: list[int], depth: int, weight: float
) -> tuple[list[int], np.ndarray]:
    """The first stage's list and every document's fused score; `by_id` breaks ties."""
    if not weight:
        return sorted(by_id, key=lambda j: -dense[j])[:depth], dense
    pool = set(sorted(by_id, key=lambda j: -dense[j])[:depth])
    pool |= set(sorted((j for j in by_id if lexical[j] > 0), key=lambda j: -lexical[j])[:depth])
    members = sorted(pool)
    fused = np.full(len(dense), -np.inf)
    z = [(s[members] - s[members].mean()) / s[members].std() for s in (dense, lexical)]
    fused[members] = (1 - weight) * z[0] + weight * z[1]
    fused = fused.astype(np.float32)
    return sorted((j for j in by_id if j in pool), key=lambda j: -fused[j])[:depth], fused


@pytest.mark.parametrize("weight", [0, 0.4])
def test_the_rows_are_those_of_a_brute_force_oracle(
    tied: Collection, tmp_path: Path, write_config: Config, weight: float
) -> None:
    depth = 12
    config = tied.config(
        tmp_path / "lake",
        retrieve={"depth": depth, "bm25": {"weight": weight}},
        rerank={"depth": 8},
        results={"keep": depth},
    )
    run(write_config(config))
    encoder = resolve_bi_encoder("toy:bag-of-words")
    reranker = resolve_cross_encoder("toy:overlap")
    texts = [f"{d['title']} {d['text']}" for d in tied.documents]
    asked = [q["text"] for q in tied.queries]
    token = load_tokenizer(encoder)
    model = load_bi_encoder(encoder, 1)
    documents = model.encode(token(texts), "document").astype(np.float64)
    queries = model.encode(token(asked), "query").astype(np.float64)
    token = load_tokenizer(reranker)
    scorer = load_cross_encoder(reranker, 1)
    expected = []
    for i, query in enumerate(tied.queries):
        dense = (documents * queries[i]).sum(axis=1)
        by_id = sorted(range(len(texts)), key=lambda j: tied.documents[j]["_id"], reverse=True)
        lexical = lexical_scores(asked[i], texts)
        order, scores = fused_order(dense.astype(np.float32), lexical, by_id, depth, weight)
        pairs = np.array([[0, k] for k in range(8)], np.int32)
        raw = scorer.score(token([asked[i]]), token([texts[j] for j in order[:8]]), pairs)
        head = sorted(range(8), key=lambda k: tied.documents[order[k]]["_id"], reverse=True)
        head = sorted(head, key=lambda k: -raw[k])
        ranked = [order[k] for k in head] + order[8:]
        for rank, j in enumerate(ranked, 1):
            first = order.index(j) + 1
            expected.append((query["_id"], tied.documents[j]["_id"], rank, first, scores[j]))
    found = table(tmp_path / "lake").to_pylist()
    names = ("query_id", "doc_id", "rank", "first_stage_rank", "first_stage_score")
    assert [tuple(row[n] for n in names[:4]) for row in found] == [row[:4] for row in expected]
    assert np.allclose([row[names[4]] for row in found], [row[4] for row in expected], atol=1e-6)
    assert all((row["rerank_score"] is None) == (row["first_stage_rank"] > 8) for row in found)
    assert ("first_stage_bm25_score" in found[0]) == bool(weight)


def test_one_text_is_ranked_once_and_fanned_out(
    collection: Collection, tmp_path: Path, write_config: Config
) -> None:
    rows = [{"_id": f"u{i}", "text": collection.queries[i % 4]["text"]} for i in range(20)]
    write_jsonl(tmp_path / "q.jsonl", rows)
    config = collection.config(
        tmp_path / "lake", queries={"path": str(tmp_path / "q.jsonl")}, evaluate={"qrels": None}
    )
    summary = run(write_config(config))
    assert summary["queries"]["ranked"] == 20
    store = open_lake(str(tmp_path / "lake"), "tiny")
    (path,) = (tmp_path / "lake" / "tiny").glob("results/*/rerank-*")
    manifest = Dataset(store, str(path.relative_to(tmp_path / "lake" / "tiny"))).manifest()
    assert manifest is not None and manifest.total("pairs") == 4 * 20
    lists: dict[str, list[str]] = {}
    for row in table(tmp_path / "lake").to_pylist():
        lists.setdefault(row["query_id"], []).append(row["doc_id"])
    assert all(lists[f"u{i}"] == lists[f"u{i % 4}"] for i in range(20))


def test_verticals_attributes_and_document_columns_come_through_typed(
    collection: Collection, tmp_path: Path, write_config: Config
) -> None:
    rows = [{**q, "tenant": i} for i, q in enumerate(collection.queries)]
    write_jsonl(tmp_path / "q.jsonl", rows)
    config = collection.config(
        tmp_path / "lake",
        corpus={"attributes": {"year": "int64"}},
        queries={"path": str(tmp_path / "q.jsonl"), "attributes": {"tenant": "int64"}},
        results={"document_columns": ["title", "year"]},
        layout={"document_shard_rows": 100},
    )
    run(write_config(config))
    documents = {d["_id"]: d for d in collection.documents}
    ranked = table(tmp_path / "lake")
    assert ranked.schema.field("year").type == pa.int64()
    for row in ranked.to_pylist():
        assert row["year"] == documents[row["doc_id"]]["year"]
        assert row["title"] == documents[row["doc_id"]]["title"]
    queries = {row["query_id"]: row for row in table(tmp_path / "lake", "queries").to_pylist()}
    assert queries["q0003"]["vertical"] == "legal" and queries["q0003"]["tenant"] == 3


def test_every_bad_row_is_accounted_for_with_file_row_and_reason(
    collection: Collection, tmp_path: Path, write_config: Config
) -> None:
    data = tmp_path / "in"
    lines = [json.dumps(d) for d in collection.documents[:400]]
    lines[10] = json.dumps({"_id": None, "text": "no id"})
    lines[20] = "{not json"
    lines[30] = json.dumps({"_id": "blank", "text": "  "})
    data.mkdir()
    with gzip.open(data / "a.jsonl.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    again = collection.documents[100]
    second = [{**again, "text": "a later text wins"}, *collection.documents[400:500]]
    columns = {n: [d[n] for d in second] for n in ("_id", "title", "text")}
    pq.write_table(pa.table(columns), data / "b.parquet", row_group_size=30)
    config = collection.config(tmp_path / "lake", corpus={"path": str(data), "reject_budget": 0.1})
    summary = run(write_config(config))
    assert summary["documents"] == {"in": 501, "indexed": 497, "rejected": 3, "superseded": 1}
    rejects = table(tmp_path / "lake", "rejects").to_pylist()
    found = {(Path(r["file"]).name, r["row"], r["reason"]) for r in rejects}
    assert found == {
        ("a.jsonl.gz", 10, "null_id"),
        ("a.jsonl.gz", 20, "bad_json"),
        ("a.jsonl.gz", 30, "empty_text"),
        ("a.jsonl.gz", 100, "duplicate"),
    }


def test_queries_that_are_not_judged_are_unselected_not_rejected(
    collection: Collection, tmp_path: Path, write_config: Config
) -> None:
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, q)) for q in collection.qrels[:9])]
    (tmp_path / "few.tsv").write_text("\n".join(lines) + "\n")
    config = collection.config(
        tmp_path / "lake",
        queries={"only_judged": True},
        evaluate={"qrels": str(tmp_path / "few.tsv")},
    )
    counts = run(write_config(config))["queries"]
    assert (counts["ranked"], counts["unselected"], counts["rejected"]) == (9, 51, 0)


@pytest.mark.parametrize(
    ("sections", "rows_a_query"),
    [
        ({"rerank": []}, 20),
        ({"rerank": {"depth": 4}}, 20),
        ({"retrieve": {"depth": 2000}, "rerank": {"depth": 30}}, 1200),
        (
            {
                "rerank": [
                    {"name": "fast", "model": "toy:overlap", "depth": 15},
                    {"name": "strong", "model": "toy:overlap", "depth": 5},
                ]
            },
            20,
        ),
    ],
)
def test_other_shapes_of_the_second_stage(
    collection: Collection,
    tmp_path: Path,
    write_config: Config,
    sections: dict[str, Any],
    rows_a_query: int,
) -> None:
    plain = collection.config(tmp_path / "lake", results={"keep": 2000})
    for name, section in sections.items():
        plain[name] = {**plain[name], **section} if isinstance(section, dict) else section
    config = write_config(plain)
    assert run(config)["rows"]["ranked"] == 60 * rows_a_query
    verify(config)
    names = table(tmp_path / "lake").column_names
    two_steps = isinstance(plain["rerank"], list) and len(plain["rerank"]) == 2
    assert ("strong_score" in names) == two_steps


def test_done_work_is_reused_and_the_log_tells_the_order(
    collection: Collection, tmp_path: Path, write_config: Config
) -> None:
    config = write_config(collection.config(tmp_path / "lake"))
    assert run(config)["generation"] == 1
    before = table(tmp_path / "lake")
    again = run(config, "cluster.attempts=2", "search.memory_bytes=1000000")
    assert again["already_published"] and again["generation"] == 1
    changed = run(config, "rerank.depth=10")
    assert changed["generation"] == 2
    work = {name for name, units in changed["units"].items() if units}
    # Lists stand and are carried over; a thirtieth of the queries is searched again, if any is due.
    ranking = {"carry", "merge", "rerank", "rank"}
    assert work - {"search"} == ranking | {"changes", "rejects", "evaluate"}
    assert run(config)["generation"] == 3
    assert table(tmp_path / "lake").equals(before)
    assert table(tmp_path / "lake", generation=1).equals(before)


def test_an_ivf_index_that_visits_every_list_gives_the_rows_of_flat(
    tmp_path: Path, write_config: Config
) -> None:
    collection = Collection(tmp_path / "in", documents=320, queries=20)
    config = write_config(collection.config(tmp_path / "lake"))
    run(config)
    flat = table(tmp_path / "lake")
    run(config, "index.factory=IVF16,Flat", "index.search_parameters=nprobe=16")
    assert table(tmp_path / "lake").equals(flat)
    run(config, "index.factory=PQ8")
    assert table(tmp_path / "lake").num_rows == flat.num_rows


def test_from_refuses_where_an_earlier_stage_is_missing(
    collection: Collection, tmp_path: Path, write_config: Config
) -> None:
    config = write_config(collection.config(tmp_path / "lake"))
    with open_and(config) as job, pytest.raises(NightrankError) as caught:
        execute(job, first="rank")
    assert caught.value.exit_code == 2 and "--from rank" in str(caught.value)


def open_and(config: str) -> Any:

    return opened(config)
