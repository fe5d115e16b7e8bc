"""Forecasts: shapes of models, counts of inputs, sizes and refusals without running anything."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightrank.config.schema import Corpus, PipelineConfig, Queries
from nightrank.errors import NightrankError
from nightrank.flow.offline_rerank import stages_of
from nightrank.forecast import sampling
from nightrank.forecast.hardware import GIB, device_named
from nightrank.forecast.limits import check, machine_memory, memory_of
from nightrank.forecast.lines import (
    LIKE,
    NOT_FORECAST,
    grows_with_documents,
    labels_of,
    name_of,
)
from nightrank.forecast.miniature import parquet_bytes
from nightrank.forecast.sampling import Sample, sample_input
from nightrank.forecast.shape import PerDocument, Shape, Side, shape_of, units_of
from nightrank.forecast.times import Pool, Pools, pools_of
from nightrank.generations.planning import make_plan
from nightrank.generations.stage_order import declarations
from nightrank.inputs.splits import list_inputs, plan_splits
from nightrank.models.folders.network_size import network_of, read_network
from nightrank.models.registry import resolve_bi_encoder, resolve_cross_encoder
from nightrank.storage.store import Store
from tests.support.collection import write_jsonl

# Qwen3-4B's own config.json, in the part that counts.
CAUSAL = {
    "num_hidden_layers": 36,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
}


def sampled(source: Corpus | Queries, wanted: int = 500, qrels: str | None = None) -> Sample:
    splits = plan_splits(list_inputs(source.path, source.format, {}), {})
    return sample_input(source, splits, {}, wanted, qrels)


def job(documents: int, queries: int, **sections: Any) -> Shape:
    plain = {"name": "j", "root": "r", "corpus": {"path": "c"}, "queries": {"path": "q"}}
    config = PipelineConfig.model_validate({**plain, **sections})
    sides = [Side(n, n, n, n, n * 500, max(1, n // 250_000)) for n in (documents, queries)]
    each = PerDocument(vector=1500.0, row=6.0, postings=500.0)
    tokens = [(150.0, 500_000)] * len(config.rerank)
    return shape_of(config, sides[0], sides[1], 384, each, tokens, 200.0)


def test_operations_of_known_networks_are_those_counted_by_hand() -> None:
    minilm = network_of(resolve_bi_encoder("builtin:minilm", precision="exact"))
    assert minilm is not None
    for tokens in (128, 512):  # 21.23 MFLOP n + 9216 n^2.
        by_hand = 21_233_664 * tokens + 9216 * tokens**2
        assert minilm.flops(np.array([tokens])) == pytest.approx(by_hand, rel=1e-3)
    causal = read_network(CAUSAL, "here")
    assert causal.flops(np.array([1])) == pytest.approx(7.27e9, rel=0.01)
    assert causal.weights("bf16") == pytest.approx(8.04e9, rel=0.01)
    assert network_of(resolve_cross_encoder("toy:overlap")) is None
    with pytest.raises(NightrankError, match="hidden_size"):
        read_network({"num_hidden_layers": 6}, "here")
    with pytest.raises(NightrankError, match="A10G"):
        device_named("GTX")


def test_a_whole_input_is_counted_to_the_row(tmp_path: Path) -> None:
    rows = [{"_id": f"d{i % 900}", "text": f"text {i}"} for i in range(1000)]
    rows += [{"_id": "empty", "text": " "}, {"_id": "", "text": "no id"}]
    sample = sampled(Corpus(path=str(write_jsonl(tmp_path / "c.jsonl", rows))))
    assert (sample.rows, sample.accepted, sample.kept, sample.whole) == (1002, 1000, 900, True)
    assert sample.table.num_rows == 500
    kept = {row["doc_id"]: row["text"] for row in sample.table.to_pylist()}
    assert len(kept) == 500
    assert all(int(text.split()[1]) >= 100 for text in kept.values())  # The last of an id counts.

    asked = [{"_id": f"q{i}", "text": f"query {i % 7}"} for i in range(40)]
    path = str(write_jsonl(tmp_path / "q.jsonl", asked))
    sample = sampled(Queries(path=path))
    assert (sample.kept, sample.distinct) == (40, 7)
    qrels = tmp_path / "qrels.tsv"
    qrels.write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq3\td2\t1\nunknown\td2\t1\n")
    assert sampled(Queries(path=path), qrels=str(qrels)).kept == 2


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "csv", "parquet"])
def test_rows_of_a_large_input_are_estimated_from_a_part(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(1)
    rows = [
        {"_id": f"d{i}", "title": "a, b", "text": "x" * int(n)}
        for i, n in enumerate(draw.integers(20, 400, 4000))
    ]
    path = tmp_path / f"c.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif form == "csv":
        lines = [f'{row["_id"]},"{row["title"]}",{row["text"]}' for row in rows]
        path.write_text("\n".join(["_id,title,text", *lines]) + "\n")
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(text) if form.endswith("gz") else text)
    monkeypatch.setattr(sampling, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(sampling, "PIECE_BYTES", 1 << 17 if not form.endswith("gz") else 1 << 12)
    sample = sampled(Corpus(path=str(path)))
    assert not sample.whole and sample.table.num_rows == 500
    assert sample.kept == pytest.approx(4000, rel=0 if form == "parquet" else 0.15)


def test_a_corpus_without_a_usable_row_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", [{"_id": "d", "text": ""}])
    with pytest.raises(NightrankError) as caught:
        sampled(Corpus(path=str(path)))
    assert caught.value.code == "E_EMPTY"


def test_units_of_a_large_job_stay_within_what_planning_can_hold() -> None:
    large = job(100_000_000, 10_000_000)
    units = units_of(large)
    assert large.document_shards == 382 and large.query_shards == 256
    assert large.pairs == 10**9
    assert units["search"] == 256 * large.groups and large.groups > 10
    assert 8_000 < units["rerank"] < 9_000


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"layout": {"document_shard_rows": 1000}}, "layout.document_shard_rows"),
        ({"rerank": {"unit_tokens": 10_000}}, "rerank.unit_tokens"),
        ({"search": {"memory_bytes": 1 << 28}, "index": {"shard_bytes": 1}}, "search.memory_bytes"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_what_to_raise(
    sections: dict[str, Any], key: str
) -> None:
    with pytest.raises(NightrankError) as caught:
        job(100_000_000, 10_000_000, **sections)
    assert caught.value.code == "E_CONFIG"
    assert f"raise {key}" in str(caught.value)


def test_advice_of_a_refusal_is_enough() -> None:
    with pytest.raises(NightrankError) as caught:
        job(100_000_000, 10_000_000, rerank={"unit_tokens": 10_000})
    wanted = int(caught.value.do.rpartition(" ")[2].replace(",", ""))
    assert (
        units_of(job(100_000_000, 10_000_000, rerank={"unit_tokens": wanted}))["rerank"] <= 50_000
    )


def test_a_model_or_a_group_that_fits_nowhere_is_refused() -> None:
    shape = job(1_000_000, 1000)
    pools = Pools(Pool(2, 1), Pool(2, 1), Pool(2, 1), 2, 0.0, True)
    causal = {"big": (read_network(CAUSAL, "here"), "bf16")}
    memory = memory_of(shape, pools, 1500.0, machine_memory(), causal)
    assert memory.models["big"] > 10 * GIB
    check(replace(memory, available=1 << 50), device_named("L4"))
    with pytest.raises(NightrankError, match=r"big needs .* GiB"):
        check(replace(memory, models={"big": 30 * GIB}), device_named("L4"))
    with pytest.raises(NightrankError, match=r"search\.memory_bytes"):
        check(replace(memory, available=1 << 20), None)


def test_a_flat_index_is_searched_on_a_gpu_in_blocks_and_another_is_built_there() -> None:
    on_gpus = Pools(Pool(2, 1), Pool(2, 1, 2.0), Pool(2, 1), 2, 2.0, True)
    flat = replace(job(1_000_000, 1000), flat=True)
    available = machine_memory()
    held = memory_of(flat, on_gpus, 1536.0, available, {})
    assert 3 * GIB < held.index_gpu < 8 * GIB
    large = replace(flat, corpus=Side(*[100_000_000] * 4, 10**11, 100))
    assert memory_of(large, on_gpus, 1536.0, available, {}).index_gpu < 8 * GIB
    approximate = replace(flat, flat=False)
    assert memory_of(approximate, on_gpus, 1536.0, available, {}).index_gpu == 0
    other = memory_of(approximate, on_gpus, 1536.0, available, {}, "IVF4096,Flat")
    assert other.index_gpu > approximate.index_bytes / approximate.index_shards
    with pytest.raises(NightrankError, match="FAISS takes"):
        check(replace(other, index_gpu=30 * GIB, available=1 << 50), device_named("L4"))


def test_stages_run_where_the_config_puts_them_and_released_gpus_cost_no_more() -> None:
    pools: dict[str, Any] = {
        "general": {"workers": 8},
        "model": {"workers": 3, "gpus": 1, "min_workers": 0},
        "merging": {"stages": ["merge", "train_index"], "workers": 2, "threads": 5},
        "wording": {"stages": ["terms"], "workers": 6, "threads": 1},
        "index": {"workers": 4, "gpus": 0},
    }
    plain: dict[str, Any] = {"name": "j", "root": "r", "cluster": {"pools": pools}}
    plain |= {"corpus": {"path": "c"}, "queries": {"path": "q"}}
    pools_here = pools_of(PipelineConfig.model_validate(plain), device_named("h100"))
    merging = Pool(2, 5)
    assert pools_here.of("merge", pools_here.general) == merging
    assert pools_here.of("train index", pools_here.index) == merging
    assert pools_here.of("terms of queries", pools_here.model) == Pool(6, 1)
    assert pools_here.of("tokenize queries", pools_here.model) == pools_here.model
    assert pools_here.of("distinct", pools_here.general) == pools_here.general
    assert pools_here.leave
    assert [pools_here.held(pool) for pool in (pools_here.model, pools_here.index, merging)] == [
        3.0,
        0.0,
        0.0,
    ]
    del pools["model"]["min_workers"]
    kept = pools_of(PipelineConfig.model_validate(plain), device_named("h100"))
    assert kept.held(kept.index) == 3.0


def test_pools_are_those_of_the_executors() -> None:
    plain: dict[str, Any] = {
        "name": "j",
        "root": "r",
        "corpus": {"path": "c"},
        "queries": {"path": "q"},
        "cluster": {
            "pools": {"general": {"workers": 8}, "model": {"workers": 3}},
            "threads_per_worker": 4,
            "address": "auto",
        },
    }
    config = PipelineConfig.model_validate(plain)
    pools = pools_of(config, device_named("h100"))
    assert (pools.general, pools.model) == (Pool(8, 4), Pool(3, 4, 3.0))
    assert (pools.cpus, pools.gpus) == (32, 3.0)
    plain["cluster"] = {"executor": "serial", "threads_per_worker": 2}
    alone = pools_of(PipelineConfig.model_validate(plain), None)
    assert alone.general.workers == 1 and alone.model.threads == 2 and not alone.is_ray


def test_fixed_bytes_of_a_file_are_those_of_an_empty_one() -> None:
    table = pa.table({"a": pa.array(range(1000), pa.int64())})
    empty = parquet_bytes(table.slice(0, 0))
    assert 200 < empty < parquet_bytes(table)


def test_every_declared_stage_is_forecast_or_named_as_left_out() -> None:
    labels = labels_of(("first", "second"))
    forecast = {name_of(label, ("first", "second")) for label in labels}
    assert not forecast & set(NOT_FORECAST)
    declared = {declaration.name for declaration in declarations()}
    assert declared == forecast | set(NOT_FORECAST) | {name_of(label) for label in LIKE}
    assert set(LIKE.values()) <= set(labels)


def test_labels_are_those_of_a_run_on_an_empty_lake(tmp_path: Path) -> None:
    rows = [{"_id": f"d{i}", "text": f"some text {i}"} for i in range(20)]
    steps = [
        {"name": name, "model": "toy:overlap", "depth": depth}
        for name, depth in (("first", 5), ("second", 3))
    ]
    config = PipelineConfig.model_validate(
        {
            "name": "j",
            "root": str(tmp_path / "lake"),
            "corpus": {"path": str(write_jsonl(tmp_path / "c.jsonl", rows))},
            "queries": {"path": str(write_jsonl(tmp_path / "q.jsonl", rows[:5]))},
            "encoder": {"model": "toy:bag-of-words"},
            "rerank": steps,
        }
    )
    store = Store(str(tmp_path / "lake" / "j"))
    planned = {stage.label: stage.name for stage in stages_of(make_plan(config, store), store)}
    names = ("first", "second")
    assert planned == {label: name_of(label, names) for label in labels_of(names)}


def test_a_label_names_its_stage_and_what_it_grows_with() -> None:
    steps = ("rerank", "deep")
    named = {"search new": "search", "rank deep": "rank", "deep s-1": "rerank"}
    named |= {"train index": "train_index", "terms of queries": "terms"}
    assert {label: name_of(label, steps) for label in named} == named
    assert [label for label in labels_of(steps) if grows_with_documents(label, steps)] == [
        "segment",
        "tokenize documents",
        "terms of documents",
        "embed documents",
        "build index",
    ]
