"""Names of columns are checked when a config is read, by one rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightrank import read_results
from nightrank.config import column_names
from nightrank.config.column_names import OWN, READERS
from nightrank.config.file import load_config
from nightrank.config.schema import Corpus, PipelineConfig, Queries
from nightrank.datasets.row_schemas import documents_schema
from nightrank.errors import NightrankError
from nightrank.exports.hive import export_hive
from nightrank.generations.results import open_lake
from nightrank.inputs.validation import corpus_schema, queries_schema
from nightrank.retrieval.hybrid import BM25, DENSE
from nightrank.stages.distinct import members_schema
from nightrank.storage import schemas
from nightrank.storage.store import Store
from tests.support.collection import Collection, write_jsonl
from tests.support.lake import run

NOTHING = pa.schema([])
TWO_STEPS = [{"model": "toy:overlap", "depth": 20}, {"model": "toy:overlap", "depth": 10}]


def test_the_reserved_names_are_those_of_the_tables_that_hold_attributes() -> None:
    corpus, queries = Corpus(path="c", feed=True), Queries(path="q")
    tables = [
        corpus_schema(corpus),
        queries_schema(queries),
        documents_schema(corpus),
        members_schema(queries),
        schemas.pool([], True),
        schemas.ranked([], True, NOTHING),
        schemas.queries(NOTHING),
    ]
    # `id` is a name under which an id column is looked for.
    assert {name for table in tables for name in table.names} | {"id"} == OWN
    assert {DENSE, BM25} <= OWN


@pytest.mark.parametrize("section", ["corpus", "queries"])
@pytest.mark.parametrize("spelling", [str.lower, str.upper, str.title])
def test_a_taken_attribute_is_refused_when_the_config_is_read(
    collection: Collection,
    tmp_path: Path,
    write_config: Callable[..., str],
    section: str,
    spelling: Callable[[str], str],
) -> None:
    for name in map(spelling, sorted({*OWN, *READERS})):
        plain = collection.config(tmp_path, **{section: {"attributes": {name: "string"}}})
        with pytest.raises(NightrankError, match="any letter case") as caught:
            load_config(write_config(plain))
        assert caught.value.exit_code == 2 and repr(name) in caught.value.what


def test_an_input_without_a_feed_does_not_take_its_columns_either(
    collection: Collection, tmp_path: Path
) -> None:
    for name in ("op", "Sequence"):
        corpus = {"attributes": {name: "string"}}
        with pytest.raises(ValueError, match="Nightrank's columns"):
            PipelineConfig.model_validate(collection.config(tmp_path, corpus=corpus))


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"corpus": {"attributes": {"Year": "int64", "year": "int64"}}}, "only in letter case"),
        ({"corpus": {"attributes": {" ": "string"}}}, "name is empty"),
        ({"results": {"document_columns": ["title", "title"]}}, "['title'] more than once"),
        ({"results": {"document_columns": ["Title"]}}, "unknown: 'Title'; did you mean 'title'?"),
        ({"rerank": [{**TWO_STEPS[0], "name": "rerank"}, TWO_STEPS[1]]}, "second column rerank_"),
        ({"rerank": [{**TWO_STEPS[0], "name": "step2"}, TWO_STEPS[1]]}, "name of an earlier step"),
        ({"rerank": [{**TWO_STEPS[0], "name": "first_stage"}]}, "second column first_stage_score"),
        ({"rerank": [{**TWO_STEPS[0], "name": "first_stage_bm25"}]}, "first_stage_bm25_score"),
        (
            {
                "rerank": [TWO_STEPS[0], {**TWO_STEPS[1], "name": "strong"}],
                "corpus": {"attributes": {"Strong_Score": "string"}},
            },
            "corpus.attributes: 'Strong_Score' is the score of the rerank step 'strong'",
        ),
    ],
)
def test_names_that_meet_each_other_are_refused_with_their_line(
    collection: Collection, tmp_path: Path, sections: dict[str, Any], words: str
) -> None:
    plain = collection.config(tmp_path, **sections)
    path = tmp_path / "c.yaml"
    path.write_text("".join(f"{key}: {value!r}\n" for key, value in plain.items()))
    with pytest.raises(NightrankError) as caught:
        load_config(str(path))
    assert words in caught.value.what and caught.value.exit_code == 2
    section = caught.value.what.partition(".")[0].partition("[")[0].partition(":")[0]
    assert caught.value.where.endswith(f"line {list(plain).index(section) + 1}")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((None, None), ["step1", "step2"]),
        ((None, "strong"), ["step1", "strong"]),
        (("dense", "bm25"), ["dense", "bm25"]),
    ],
)
def test_every_step_has_its_column_in_published_rows_that_can_be_read(
    tmp_path: Path,
    write_config: Callable[..., str],
    names: tuple[str | None, ...],
    expected: list[str],
) -> None:
    small = Collection(tmp_path / "in", documents=30, queries=3)
    attributes = {"attributes": {"year": "int64"}}
    steps = [
        step if name is None else {**step, "name": name}
        for step, name in zip(TWO_STEPS, names, strict=True)
    ]
    plain = small.config(tmp_path / "lake", rerank=steps, corpus=attributes)
    plain["results"] = {"document_columns": ["year", "title"]}
    run(write_config(plain))
    rows = read_results(str(tmp_path / "lake"), "tiny").to_table()
    assert [f"{name}_score" for name in expected] == rows.column_names[-4:-2]
    folded = [name.casefold() for name in rows.column_names]
    assert len(set(folded)) == len(folded)
    assert rows["year"].null_count == 0
    queries = read_results(str(tmp_path / "lake"), "tiny", "queries").to_table()
    assert set(queries["policy"].to_pylist()) == {f"{expected[0]}@20+{expected[1]}@10"}


def test_one_step_is_called_rerank(collection: Collection, tmp_path: Path) -> None:
    for steps in ({"depth": 10}, [{"depth": 10}], [{"depth": 10, "name": "rerank"}]):
        plain = {**collection.config(tmp_path), "rerank": steps}
        assert [s.name for s in PipelineConfig.model_validate(plain).rerank] == ["rerank"]


def test_names_of_other_internal_tables_are_free(
    tmp_path: Path, write_config: Callable[..., str]
) -> None:
    internal = {
        name
        for table in vars(schemas).values()
        if isinstance(table, pa.Schema)
        for name in table.names
    }
    names = sorted(internal - OWN) + ["found_by_vector", "vector", "rerank", "step1_score", "a b"]
    assert len(names) > 15
    attributes = {"attributes": dict.fromkeys(names, "string")}
    small = Collection(tmp_path / "in", documents=30, queries=3)
    for night in ("first", "second"):
        values = {name: f"{night} {name}" for name in names}
        documents = [{**row, **values} for row in small.documents]
        write_jsonl(small.folder / "corpus.jsonl", documents)
        write_jsonl(small.folder / "queries.jsonl", [{**row, **values} for row in small.queries])
        plain = small.config(tmp_path / "lake", corpus=attributes, queries=attributes)
        run(write_config({**plain, "results": {"keep": 5, "document_columns": names}}))
        for table in ("ranked", "queries"):
            rows = read_results(str(tmp_path / "lake"), "tiny", table).to_table().to_pylist()
            assert all(row[name] == values[name] for row in rows for name in names) and rows


def test_readers_own_columns_do_break_what_holds_them(tmp_path: Path) -> None:
    import pyarrow.dataset as pads

    for name in (name for name in READERS if name.startswith("__")):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({name: [1]}), path)
        with pytest.raises(pa.ArrowInvalid):
            pads.dataset(path).to_table()


def test_rows_published_with_the_partition_column_are_not_exported_to_hive(
    tmp_path: Path, write_config: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Collection(tmp_path / "in", documents=30, queries=3)
    rows = [{**row, "Run_Date": "2024-01-01"} for row in small.documents]
    write_jsonl(small.folder / "corpus.jsonl", rows)
    # As a version without this rule published them.
    monkeypatch.setattr(column_names, "READERS", {})
    plain = small.config(tmp_path / "lake", corpus={"attributes": {"Run_Date": "string"}})
    run(write_config({**plain, "results": {"document_columns": ["Run_Date"]}}))
    with pytest.raises(NightrankError, match="'Run_Date', the name of the partition") as caught:
        export_hive(open_lake(str(tmp_path / "lake"), "tiny"), Store(str(tmp_path / "h")), "tiny")
    assert caught.value.exit_code == 4
    assert not list((tmp_path / "h").rglob("*.parquet"))
    assert not list((tmp_path / "h").rglob("claim.json"))
