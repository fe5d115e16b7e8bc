"""An upgraded stage: it and what reads it are computed again, everything else is reused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nightrank.flow.run import Run
from nightrank.generations.results import open_lake
from nightrank.generations.stage_order import declarations
from nightrank.runtime.stage import Stage
from nightrank.storage.dataset import Manifest
from nightrank.storage.log import Log
from tests.support.collection import Collection, write_jsonl
from tests.support.lake import digests, run
from tests.support.versions import raise_version

Config = Callable[..., str]

# What a run reports, the stage's name, and what else of it a stage reads. Stages that no run from
# nothing has are not in it.
READS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ingest corpus": ("ingest", ()),
    "ingest queries": ("ingest", ()),
    "delta corpus": ("delta", ("ingest corpus",)),
    "delta queries": ("delta", ("ingest queries",)),
    "extract": ("extract", ("ingest corpus", "delta corpus")),
    "segment": ("segment", ("extract",)),
    "tokenize documents": ("tokenize", ("segment",)),
    "terms of documents": ("terms", ("segment",)),
    "embed documents": ("embed", ("tokenize documents",)),
    "train index": ("train_index", ("embed documents", "terms of documents")),
    "build index": ("build_index", ("segment", "train index")),
    "distinct": ("distinct", ("ingest queries", "delta queries")),
    "tokenize queries": ("tokenize", ("distinct",)),
    "terms of queries": ("terms", ("distinct",)),
    "embed queries": ("embed", ("tokenize queries",)),
    "search": ("search", ("embed queries", "terms of queries", "build index")),
    "merge": ("merge", ("search", "distinct")),
    "fast": ("rerank", ("merge", "tokenize documents", "tokenize queries")),
    "rank fast": ("rank", ("merge", "fast")),
    "deep": ("rerank", ("rank fast", "tokenize documents", "tokenize queries")),
    "rank": ("rank", ("rank fast", "deep", "distinct", "embed queries")),
    "changes": ("changes", ("rank",)),
    "rejects": ("rejects", ("ingest corpus", "delta corpus", "embed documents", "rank")),
}
STAGES = sorted({name for name, _ in READS.values()})
INCREMENTAL = {"removals", "compact", "copy", "carry"}


def dependents(stage: str) -> set[str]:
    """What is reported of the stage, and of all that read it, directly or not."""
    found = {label for label, (name, _) in READS.items() if name == stage}
    while more := {label for label, (_, read) in READS.items() if found & set(read)} - found:
        found |= more
    return found


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return Collection(tmp_path_factory.mktemp("versions"), documents=120, queries=8)


@pytest.fixture(scope="module")
def published(collection: Collection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with one generation, to be copied."""
    lake = tmp_path_factory.mktemp("published") / "lake"
    run(write(collection, lake))
    return lake


def write(collection: Collection, lake: Path) -> str:
    steps = [{"name": n, "model": "toy:overlap", "depth": d} for n, d in (("fast", 9), ("deep", 4))]
    plain = collection.config(lake, rerank=steps, retrieve={"bm25": {"weight": 0.5}})
    path = lake.parent / "config.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(plain))
    return str(path)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is reported of the stages that are executed."""
    names: list[str] = []
    execute = Run.execute

    def note(self: Run, stage: Stage) -> Manifest:
        names.append(stage.name)
        return execute(self, stage)

    monkeypatch.setattr(Run, "execute", note)
    return names


def test_every_declared_stage_is_covered() -> None:
    assert {stage.name for stage in declarations()} == {*STAGES, *INCREMENTAL, "evaluate"}


def test_the_table_of_the_documentation_has_every_stage() -> None:
    page = Path(__file__).parents[2] / "docs" / "architecture" / "index.md"
    table = re.search(r"\| stage \|.*?\n\n", page.read_text(), re.DOTALL)
    assert table is not None
    rows = [line.split("|")[1] for line in table[0].splitlines()[2:] if line]
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(
        stage.name for stage in declarations()
    )


@pytest.mark.parametrize("stage", STAGES)
def test_an_upgraded_stage_and_its_dependents_are_computed_again(
    stage: str,
    collection: Collection,
    published: Path,
    computed: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lake = tmp_path / "lake"
    shutil.copytree(published, lake)
    config = write(collection, lake)
    assert run(config)["already_published"] and not computed
    raise_version(monkeypatch, stage)
    assert run(config)["generation"] == 2
    # `changes` compares with generation 1 now, and compared with nothing before.
    assert set(computed) == dependents(stage) | {"changes"}
    assert digests(lake)["ranked"] == digests(published)["ranked"]
    computed.clear()
    assert run(config)["already_published"] and not computed


def test_an_upgraded_evaluation_is_computed_again(
    collection: Collection, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = tmp_path / "lake"
    shutil.copytree(published, lake)
    config = write(collection, lake)
    before = run(config)
    raise_version(monkeypatch, "evaluate")
    after = run(config)
    assert after["report"] != before["report"] and after["measures"] == before["measures"]


@pytest.mark.parametrize(
    "stage", ["segment", "tokenize", "terms", "embed", "train_index", "rerank"]
)
def test_an_incremental_run_after_an_upgrade_reuses_nothing_of_the_stage(
    stage: str,
    collection: Collection,
    published: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lake = tmp_path / "lake"
    shutil.copytree(published, lake)
    changed = Collection(tmp_path / "changed", documents=120, queries=8)
    write_jsonl(changed.folder / "corpus.jsonl", [*changed.documents[2:], changed_document()])
    write_jsonl(changed.folder / "queries.jsonl", changed.queries[1:])
    config = write(changed, lake)
    raise_version(monkeypatch, stage)
    came = run(config)
    embedded, scored = came["documents_embedded"], came["pairs_scored"]
    everything = {"segment", "tokenize", "embed"}
    assert embedded == (119 if stage == "segment" else 121 if stage in everything else 1)
    fresh = {"segment", "tokenize", "rerank"}
    assert (scored == came["pairs_needed"]) == (stage in fresh)


@pytest.mark.parametrize("stage", ["compact", "copy"])
def test_merged_segments_of_an_older_version_are_not_reused(
    stage: str,
    collection: Collection,
    published: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lake = tmp_path / "lake"
    shutil.copytree(published, lake)
    changed = Collection(tmp_path / "changed", documents=120, queries=8)
    plain = json.loads(Path(write(changed, lake)).read_text())
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({**plain, "nightly": {"max_segments": 1}}))
    for removed in (1, 2, 3):
        if removed == 3:
            raise_version(monkeypatch, stage)
        write_jsonl(changed.folder / "corpus.jsonl", [*changed.documents[removed:], NEW[removed]])
        came = run(str(config))
        # After the first, each run merges its segment with the one that the run before merged.
        assert came["documents_embedded"] == (121 - removed if removed == 3 else 1)
    index = Log(open_lake(str(lake), "tiny"), "index")
    assert sum(entry.body["compacted"] is not None for entry in index.published()) == 2


NEW = {i: {"_id": f"new{i}", "title": "river", "text": f"bank loan {i}"} for i in (1, 2, 3)}


def changed_document() -> dict[str, Any]:
    return {"_id": "new", "title": "river", "text": "bank loan interest", "year": 2000}
