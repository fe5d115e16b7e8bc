"""From a config and its inputs to a forecast: the one function that puts the parts together."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightrank.config.schema import PipelineConfig
from nightrank.forecast import artifacts, calibration, limits, requests, rows, shape, times
from nightrank.forecast.calibration import Rate, Searching
from nightrank.forecast.hardware import Device
from nightrank.forecast.incremental import incremental_run
from nightrank.forecast.miniature import Miniature, run_miniature
from nightrank.forecast.sampling import Sample, sample_input
from nightrank.forecast.tokens_sample import (
    Load,
    Texts,
    cut_shares,
    pair_load,
    single_load,
    tokenise,
)
from nightrank.inputs.splits import Split
from nightrank.models.folders.network_size import network_of
from nightrank.models.protocols import ResolvedModel
from nightrank.retrieval.carried_lists import kept_rows
from nightrank.storage import ordinals

FORMAT = 1
# Documents in lists: below so many the two lists of a query share more than of a large corpus.
FEW_LISTS = 10


@dataclass(frozen=True)
class Question:
    """What is to be forecast.

    Attributes:
        config: the experiment.
        encoder: its bi-encoder, resolved.
        steps: its rerankers, resolved.
        corpus_splits: of the corpus of the config.
        query_splits: of the queries.
        sample_rows: rows of either that are looked at.
        documents: how many there are to be instead; None takes those that are here.
        queries: likewise.
        device: a GPU that models would run on; None takes this machine.
        node_memory: bytes of a node; None takes this machine's.
        change: share of the documents that an incremental run replaces.
    """

    config: PipelineConfig
    encoder: ResolvedModel
    steps: tuple[ResolvedModel, ...]
    corpus_splits: tuple[Split, ...]
    query_splits: tuple[Split, ...]
    sample_rows: int = 2000
    documents: int | None = None
    queries: int | None = None
    device: Device | None = None
    node_memory: int | None = None
    change: float = 0.01


@dataclass(frozen=True)
class _Tokens:
    """The sample by every tokenizer, and what each model gets to do."""

    by_name: dict[str, Texts]
    documents: Load
    queries: Load
    pairs: list[tuple[Load, NDArray[np.int32]]]
    pair_tokens: list[tuple[float, int]]

    def of(self, model: ResolvedModel) -> Texts:
        return self.by_name[model.tokenizer]


def predict(ask: Question) -> dict[str, Any]:
    """Samples, measures and scales.

    Returns:
        Plain data: counts, tokens, `stages` (units, seconds, bytes), `artifacts` (bytes), memory,
        requests, hours, an incremental run, warnings; see README.

    Raises:
        NightrankError: E_CONFIG for a plan that does not fit; E_EMPTY, E_SCHEMA for the input;
            E_MODEL.
    """
    config = ask.config
    samples = _samples(ask)
    tables = samples[0].table, samples[1].table
    tokens = _tokens(ask, samples)
    small = run_miniature(config, *tables, ask.encoder.dimension)
    pools = times.pools_of(config, ask.device)
    rates, vector = _rates(ask, samples, tokens, pools)
    each = artifacts.RowBytes(
        sum(texts.documents.row_bytes for texts in tokens.by_name.values()),
        sum(texts.queries.row_bytes for texts in tokens.by_name.values()),
        vector or small.stages["embed documents"].files["vectors"].row_bytes,
        len(tokens.by_name),
        any(model.family != "toy" for model in (ask.encoder, *ask.steps)),
    )
    job = _shape(ask, samples, small, each, tokens.pair_tokens)
    depth, keep = config.retrieve.depth, config.results.keep
    written = artifacts.written(job, small, each, depth, keep)
    sizes = artifacts.artifacts(job, written)
    counted = rows.rows_each(job, depth, keep)
    lists = counted["search", "candidates"][0], counted["merge", "candidates"][0]
    spent = times.spent(config, job, small, rates, pools, lists)
    seconds = sum(stage.seconds for stage in spent.values())
    gpu = bool(ask.device) or any(rate and rate.on_gpu for rate in (rates.encoder, *rates.steps))
    models = [ask.encoder, *ask.steps] if gpu else []
    shapes = {
        model.model: (network, _precision(ask, number))
        for number, model in enumerate(models)
        if (network := network_of(model))
    }
    available = ask.node_memory or limits.machine_memory()
    memory = limits.memory_of(job, pools, each.vector, available, shapes, config.index.factory)
    limits.check(memory, ask.device)
    size = sum(files.size for files in written.values())
    later = incremental_run(ask.change, job, spent, written, config.nightly.audit_nights)
    stages = {
        name: {
            "units": stage.units,
            "seconds": round(stage.seconds, 2),
            "core_seconds": round(stage.core_seconds, 2),
            "gpu_seconds": round(stage.gpu_seconds, 2),
            "gpu_hours": round(stage.gpus * stage.seconds / 3600, 4),
            "bytes": written[name].size if name in written else 0,
        }
        for name, stage in spent.items()
    }
    return {
        "format": FORMAT,
        "whole": samples[0].whole and samples[1].whole and not (ask.documents or ask.queries),
        "sampled": {"documents": tables[0].num_rows, "queries": tables[1].num_rows},
        "documents": {**asdict(job.corpus), "files": samples[0].files},
        "queries": {**asdict(job.queries), "files": samples[1].files},
        "pairs": job.pairs,
        "tokens": _token_counts(tokens, job),
        "cut": cut_shares(ask.encoder, tokens.documents, tokens.queries, ask.steps, tokens.pairs),
        "stages": stages,
        "artifacts": sizes,
        "bytes": size,
        "lake_bytes": sum(sizes.values()),
        "index": {"shards": job.index_shards, "groups": job.groups, "flat": job.flat},
        "memory": asdict(memory),
        "requests": {
            "put": requests.puts(job, written),
            "get": requests.gets(job, written, len(tokens.by_name), pools.index.workers),
        },
        "pools": asdict(pools),
        "device": ask.device.name if ask.device else "this machine",
        "models": [model.model for model in (ask.encoder, *ask.steps)],
        "seconds": round(seconds, 2),
        "cpu_hours": round(pools.cpus * seconds / 3600, 4),
        "gpu_hours": round(sum(s.gpus * s.seconds for s in spent.values()) / 3600, 4),
        "night": asdict(later),
        "warnings": limits.warnings_of(
            config, samples, job, memory, pools, size, seconds, ask.device
        ),
    }


def _samples(ask: Question) -> tuple[Sample, Sample]:
    config, options = ask.config, ask.config.storage_options
    qrels = config.evaluate.qrels if config.queries.only_judged else None
    return (
        sample_input(config.corpus, ask.corpus_splits, options, ask.sample_rows),
        sample_input(config.queries, ask.query_splits, options, ask.sample_rows, qrels),
    )


def _tokens(ask: Question, samples: tuple[Sample, Sample]) -> _Tokens:
    tables = samples[0].table, samples[1].table
    by_name: dict[str, Texts] = {}
    layout = ask.config.layout
    shard_rows = (
        ordinals.shard_rows(ask.documents or samples[0].kept, layout.document_shard_rows),
        ordinals.shard_rows(ask.queries or samples[1].kept, layout.query_shard_rows),
    )
    for model in (ask.encoder, *ask.steps):
        if model.tokenizer not in by_name:
            by_name[model.tokenizer] = tokenise(model, *tables, shard_rows)
    budget, limit = calibration.budget_of(ask.device), ask.encoder.max_length_tokens
    mine = by_name[ask.encoder.tokenizer]
    loads = [single_load(s.lengths, limit, budget) for s in (mine.documents, mine.queries)]
    pairs, pair_tokens = [], []
    for step in ask.steps:
        texts = by_name[step.tokenizer]
        pairs.append(pair_load(texts, step.max_length_tokens, budget))
        means = [np.mean(side.tokens.lengths) for side in (texts.documents, texts.queries)]
        mean = min(step.max_length_tokens, float(sum(means)))
        pair_tokens.append((mean, step.minute_tokens))
    return _Tokens(by_name, loads[0], loads[1], pairs, pair_tokens)


def _rates(
    ask: Question, samples: tuple[Sample, Sample], tokens: _Tokens, pools: times.Pools
) -> tuple[times.Rates, float]:
    """What everything costs, and the bytes of a stored vector (0 of a toy's: see miniature)."""
    device, config = ask.device, ask.config
    encoder: Rate | None = None
    vector, cores = 0.0, os.cpu_count() or 1
    threads = [
        min(cores, pools.of(stage, pools.model).threads) for stage in ("embed documents", "rerank")
    ]
    if network := network_of(ask.encoder):
        if device:
            encoder = calibration.from_table(device, network, tokens.documents, _precision(ask, 0))
            vector = calibration.vector_bytes(
                calibration.random_vectors(256, ask.encoder.dimension)
            )
        else:
            stored, load = tokens.of(ask.encoder).documents.tokens, tokens.documents
            encoder, vector = calibration.time_encoder(
                ask.encoder, stored, load.lengths, load, threads[0]
            )
    steps: list[Rate | None] = []
    for number, (step, (load, pairs)) in enumerate(zip(ask.steps, tokens.pairs, strict=True)):
        if network := network_of(step):
            precision = _precision(ask, number + 1)
            steps.append(
                calibration.from_table(device, network, load, precision)
                if device
                else calibration.time_reranker(step, tokens.of(step), pairs, load, threads[1])
            )
        else:
            steps.append(None)
    dimension, bm25 = ask.encoder.dimension, config.retrieve.bm25
    tables = samples[0].table, samples[1].table
    searching = calibration.time_search(*tables, dimension, config.retrieve.depth, bm25)
    by_gpu = times.has_index_gpu(config.cluster, device)
    rates = times.Rates(
        (samples[0].seconds_per_row, samples[1].seconds_per_row),
        (
            sum(texts.documents.seconds for texts in tokens.by_name.values()),
            sum(texts.queries.seconds for texts in tokens.by_name.values()),
        ),
        encoder,
        tokens.queries.padded / max(1.0, tokens.documents.padded),
        tuple(steps),
        tuple(_precision(ask, n + 1) != "fp32" for n in range(len(ask.steps))),
        searching,
        Searching.gpu_seconds(device, dimension) if by_gpu and device else None,
    )
    return rates, vector


def _precision(ask: Question, number: int) -> str:
    """Of the encoder (0) or a step: as resolved; on a GPU of the table bf16 but for `exact`."""
    model = (ask.encoder, *ask.steps)[number]
    asked = [ask.config.encoder.precision, *(step.precision for step in ask.config.rerank)][number]
    if ask.device and model.family != "toy":
        return "fp32" if asked == "exact" else "bf16"
    return model.precision


def _shape(
    ask: Question,
    samples: tuple[Sample, Sample],
    small: Miniature,
    each: artifacts.RowBytes,
    pair_tokens: list[tuple[float, int]],
) -> shape.Shape:
    config = ask.config
    corpus, queries = (
        shape.Side.of(sample, wanted, source.on_bad_file == "reject")
        for sample, wanted, source in (
            (samples[0], ask.documents, config.corpus),
            (samples[1], ask.queries, config.queries),
        )
    )
    # Of few documents more are in both lists of a query than of many.
    list_rows = small.rows("search", "candidates") / max(1, small.queries)
    depth, hybrid = config.retrieve.depth, config.retrieve.bm25.weight > 0
    if corpus.kept > small.documents:
        most = min(shape.most_list_rows(depth, hybrid), corpus.kept)
        if small.documents < FEW_LISTS * kept_rows(depth):
            list_rows = max(list_rows, (list_rows + most) / 2)
    per = artifacts.per_document(small, each, shape.POSTING_BYTES)
    by_gpu, dimension = times.has_index_gpu(config.cluster, ask.device), ask.encoder.dimension
    return shape.shape_of(
        config, corpus, queries, dimension, per, pair_tokens, list_rows, searched_by_gpu=by_gpu
    )


def _token_counts(tokens: _Tokens, job: shape.Shape) -> dict[str, int]:
    """Real and padded tokens that go through the models."""
    documents, queries = job.corpus.kept, job.queries.distinct
    loads = zip(tokens.pairs, job.steps, strict=True)
    pairs = [(load.real * step.pairs, load.padded * step.pairs) for (load, _), step in loads]
    singles = (tokens.documents, documents), (tokens.queries, queries)
    return {
        "encoder": round(sum(load.real * count for load, count in singles)),
        "encoder_padded": round(sum(load.padded * count for load, count in singles)),
        "reranker": round(sum(real for real, _ in pairs)),
        "reranker_padded": round(sum(padded for _, padded in pairs)),
    }
