"""How many inputs were longer than their model takes: forecast, counted, told and reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nightrank.api.forecast_table import table as plan_table
from nightrank.datasets.cut_inputs import lines, share
from nightrank.generations.results import generation_of, open_lake
from nightrank.models.registry import (
    load_bi_encoder,
    load_cross_encoder,
    load_tokenizer,
    resolve_bi_encoder,
    resolve_cross_encoder,
)
from nightrank.models.text.batching import SPENT
from tests.support.collection import Collection
from tests.support.lake import run
from tests.support.program import nightrank

LIMIT = 20
Write = Callable[..., str]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return Collection(tmp_path_factory.mktemp("few"), documents=60, queries=6)


def words(document: dict[str, str]) -> int:
    return len(f"{document['title']} {document['text']}".split())


def test_a_run_counts_what_it_cut_and_a_later_night_all_segments(
    few: Collection, tmp_path: Path, write_config: Write
) -> None:
    root = tmp_path / "lake"
    plain = few.config(
        root,
        encoder={"model": "toy:bag-of-words", "max_length_tokens": LIMIT},
        rerank={"model": "toy:overlap", "depth": 20, "max_length_tokens": LIMIT},
    )
    path = write_config(plain)
    long = sum(words(document) > LIMIT for document in few.documents)
    assert 0 < long < 60
    done = nightrank("run", path, "--json")
    records = json.loads(done.stdout)["cut"]
    assert records[0] == {
        "kind": "documents",
        "model": "toy:bag-of-words",
        "tokens": LIMIT,
        "cut": long,
        "of": 60,
    }
    assert records[1]["cut"] == 0 and records[1]["of"] == 6
    assert records[2]["step"] == "rerank" and 0 < records[2]["cut"] < records[2]["of"]
    said = f"{share(long / 60)} of 60 documents are cut at {LIMIT} tokens (toy:bag-of-words)"
    assert said == lines(records)[0]
    # A document more: it alone is embedded, and the count is of the corpus.
    corpus = Path(plain["corpus"]["path"])
    more = corpus.read_text() + json.dumps({"_id": "long", "text": "word " * 50}) + "\n"
    (tmp_path / "more.jsonl").write_text(more)
    later = run(write_config({**plain, "corpus": {"path": str(tmp_path / "more.jsonl")}}))
    assert later["documents_embedded"] == 1
    assert (later["cut"][0]["cut"], later["cut"][0]["of"]) == (long + 1, 61)
    again = nightrank("run", write_config(plain, "again.yaml"))
    assert again.returncode == 0 and said in again.stdout
    page = generation_of(open_lake(str(root), "tiny"))
    assert page.body["cut"][0]["cut"] == long


def test_the_report_and_the_forecast_name_the_share(
    few: Collection, tmp_path: Path, write_config: Write
) -> None:
    encoder = {"model": "toy:bag-of-words", "max_length_tokens": LIMIT}
    path = write_config(few.config(tmp_path / "lake", encoder=encoder))
    planned = nightrank("plan", path, "--json")
    forecast = json.loads(planned.stdout)
    # A forecast counts two special tokens, which the toy does not have.
    long = sum(words(document) + 2 > LIMIT for document in few.documents) / 60
    assert forecast["cut"][0]["share"] == pytest.approx(long, abs=1e-4)
    assert any(
        f"of documents are cut at {LIMIT} tokens" in line for line in plan_table(forecast, "t")
    )
    summary = run(path)
    assert lines(summary["cut"])[0] in Path(summary["report"]).read_text()


def test_little_is_not_shown_as_nothing() -> None:
    assert [share(part) for part in (0.0, 0.004, 0.18, 1.0)] == [
        "0 %", "less than 1 %", "18 %", "100 %",
    ]  # fmt: skip
    assert lines([{"kind": "pairs", "model": "m", "tokens": 8, "cut": 0, "of": 0}]) == []


@pytest.mark.models
@pytest.mark.parametrize("way", ["spliced", "tokenised", "general"])
def test_models_count_exactly_what_is_longer(way: str, tiny_bi_encoder: Path) -> None:
    """A text of just the limit is not cut, one of a token more is."""
    if way == "general":
        pooling = tiny_bi_encoder / "1_Pooling" / "config.json"
        pooling.write_text(json.dumps({"embedding_dimension": 32, "pooling_mode": "max"}))
    name = "builtin:minilm" if way == "spliced" else str(tiny_bi_encoder)
    resolved = resolve_bi_encoder(name, precision="exact", max_length_tokens=12)
    texts = ["apple", "", "water " * 10, "water " * 11, "bank " * 40]  # And two special tokens.
    before = SPENT.cut
    load_bi_encoder(resolved, 1).encode(load_tokenizer(resolved)(texts), "document")
    assert SPENT.cut - before == 2


@pytest.mark.models
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("general", [False, True])
def test_pairs_are_counted_as_pairs(side: str, general: bool, tiny_cross_encoder: Path) -> None:
    settings = tiny_cross_encoder / "tokenizer_config.json"
    plain = json.loads(settings.read_text())
    if general:  # A template that renders nothing but the two texts.
        plain["chat_template"] = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    settings.write_text(json.dumps({**plain, "truncation_side": side}))
    resolved = resolve_cross_encoder(
        str(tiny_cross_encoder), precision="exact", max_length_tokens=12
    )
    assert (resolved.family == "sentence_transformers") == general
    tokenizer = load_tokenizer(resolved)
    queries, documents = tokenizer(["water " * 3]), tokenizer(["bank " * 6, "bank " * 7])
    before = SPENT.cut
    pairs = np.array([[0, 0], [0, 1]], np.int32)
    load_cross_encoder(resolved, 1).score(queries, documents, pairs)
    assert SPENT.cut - before == 1
