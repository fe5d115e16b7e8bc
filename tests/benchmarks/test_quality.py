"""The quality benchmark measures what the pipeline publishes."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import quality
from tests.support.collection import Collection

DEPTH = 20


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> quality.Settings:
    data, work = (tmp_path_factory.mktemp(name) for name in ("data", "work"))
    made = Collection(data / "toy", documents=80, queries=30)
    for name in ("corpus.jsonl", "queries.jsonl"):
        with gzip.open(data / "toy" / f"{name}.gz", "wb") as file:
            file.write((data / "toy" / name).read_bytes())
    (data / "toy" / "qrels").mkdir()
    shutil.copy(made.folder / "qrels.tsv", data / "toy" / "qrels" / "test.tsv")
    return quality.Settings(data, work, 12, "exact", "toy:overlap", DEPTH, 1)


@pytest.mark.models
def test_curves_pass_through_what_was_published(settings: quality.Settings) -> None:
    found = quality.measure("toy", "test", settings)
    assert {len(values) for values in found["values"].values()} == {12}
    # The toy recommends no share of the first stage: what is published is its raw score.
    assert found["values"]["published"] == found["values"]["w=0.0 @20"]
    assert found["values"]["first_stage"] == found["values"]["w=1.0 @20"]
    half = quality.chosen(found, 0.5)
    means = {run: np.mean(half["values"][run]) for run in quality.RUNS}
    assert half["depth_curve"]["@20"] == half["weight_curve"]["w=0.5"] == means["reranked"]
    assert half["weight_curve"]["w=0.0"] == means["raw"] != means["reranked"]
    assert means["ceiling"] >= max(half["weight_curve"].values())
    assert means["dense_ceiling"] >= means["dense"] > 0

    shutil.rmtree(settings.work / "lake")  # Measured already: nothing is run again.
    assert quality.measure("toy", "test", settings) == found
    assert not (settings.work / "lake").exists()


def test_the_sample_is_fixed_and_answerable(tmp_path: Path) -> None:
    lines = [f"q{i}\td{i}\t{i % 2}" for i in range(40)]
    source = tmp_path / "qrels.tsv"
    source.write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    quality.sample(source, tmp_path / "one.tsv", 7)
    quality.sample(source, tmp_path / "two.tsv", 7)
    kept = (tmp_path / "one.tsv").read_text()
    assert kept == (tmp_path / "two.tsv").read_text()
    grades = [line.split("\t")[2] for line in kept.splitlines()[1:]]
    assert grades == ["1"] * 7


def test_lifts_are_means_over_collections_of_relative_lifts() -> None:
    parts = [
        {"values": {"dense": [0.2, 0.4], "raw": [0.4, 0.5]}},
        {"values": {"dense": [0.5] * 3, "raw": [0.4] * 3}},
    ]
    found = quality.lift(parts, "raw", "x")
    assert found["lift"] == pytest.approx((0.5 - 0.2) / 2)
    assert found["low"] < found["lift"] < found["high"]
    assert quality.lift(parts[1:], "raw", "x")["low"] == pytest.approx(-0.2)
