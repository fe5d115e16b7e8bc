"""Seconds of every stage for the configured workers.

Work is counted in core-seconds (or seconds of a GPU). A stage of n units on w workers takes as long
as the worker with most units: n/w rounded up. That is what makes the end of a stage visible.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from nightrank.config.running import STANDARD_POOLS, Cluster
from nightrank.config.schema import PipelineConfig
from nightrank.forecast.calibration import APPROXIMATE_GAIN, Rate, Searching
from nightrank.forecast.hardware import Device
from nightrank.forecast.lines import name_of, reads_queries, scales_with
from nightrank.forecast.miniature import Miniature
from nightrank.forecast.shape import Shape, units_of
from nightrank.models.hardware import has_cuda
from nightrank.runtime.stage import Quantity
from nightrank.stages import train_index
from nightrank.stages.rerank import CHECKED_LEAST, CHECKED_MOST, CHECKED_SHARE

# Starting Ray took 2.6 to 4.2 s, a worker's imports 2 s (2 cores).
RAY_SECONDS, IMPORT_SECONDS = 4.0, 2.0
# Reading a group of index shards: sha256 and parsing, or S3 at some 5 Gbit/s.
OPEN_BYTES_PER_SECOND = 0.5e9
# fp32 takes twice as long as bf16: the queries that are scored in both.
EXACT_COST = 2
# k-means of an approximate index, and trials of some eight settings, up to three times each.
KMEANS_ROUNDS, TRIALS = 10, 24


@dataclass(frozen=True)
class Pool:
    """Workers of one kind: how many, threads of each, GPUs of all of them."""

    workers: int
    threads: int
    gpus: float = 0.0


@dataclass(frozen=True)
class Pools:
    """What a run has.

    Attributes:
        general: the workers of most stages.
        index: those that index and search.
        model: those that hold a model.
        cpus: that it keeps busy or waiting.
        gpus: likewise, at most.
        is_ray: whether there are processes to start.
        own: pools of stages that the config puts elsewhere, by the stage's kind.
        leave: whether GPUs are held by their own stages alone, and go after them.
    """

    general: Pool
    index: Pool
    model: Pool
    cpus: int
    gpus: float
    is_ray: bool
    own: Mapping[str, Pool] = field(default_factory=dict)
    leave: bool = False

    def of(self, stage: str, usual: Pool, steps: Collection[str] = ()) -> Pool:
        """Where a stage runs; the names of rerank steps are their config's."""
        return self.own.get(name_of(stage, steps), usual)

    def held(self, pool: Pool) -> float:
        """GPUs that a stage of this pool keeps from others: all, unless they go after their own."""
        return pool.gpus if self.leave else self.gpus


def pools_of(config: PipelineConfig, device: Device | None) -> Pools:
    """The pools as the executors size them, on a machine like this one where nothing is said."""
    cluster, cores = config.cluster, os.cpu_count() or 1
    gpu = device is not None or has_cuda()
    if cluster.executor == "serial":
        alone = Pool(1, cluster.threads_per_worker or cores, 1.0 if gpu else 0.0)
        one = Pool(1, 1)
        return Pools(one, alone, alone, alone.threads, alone.gpus, False)
    elsewhere = cluster.existing_address is not None or device is not None

    def pool(name: str, count: int, share: float) -> Pool:
        wanted = cluster.pool(name)
        count, share = wanted.workers or count, share if wanted.gpus is None else wanted.gpus
        own = wanted.threads or cluster.threads_per_worker or int(wanted.cpus or 0)
        threads = own or max(1, cores // count)
        if not elsewhere:  # More threads than cores do no more.
            threads = max(1, min(threads, cores // min(count, cores)))
        return Pool(count, threads, share * count)

    general = pool("general", max(2, cores // 2), 0.0)
    model = pool("model", 1 if gpu else cores, float(gpu))
    index = general
    if has_index_gpu(cluster, device):  # Stages in turn have the same GPUs.
        index = pool("index", max(1, int(model.gpus)), 1.0)
    elif "index" in cluster.pools:
        index = pool("index", general.workers, 0.0)
    every = {"general": general, "index": index, "model": model}
    own: dict[str, Pool] = {}
    for name, wanted in cluster.pools.items():
        if name not in STANDARD_POOLS:
            every[name] = pool(name, max(2, cores // 2), 0.0)
        own |= dict.fromkeys(wanted.stages, every[name])
    cpus = max(p.workers * p.threads for p in every.values())
    cpus = cpus if elsewhere else min(cpus, cores)
    holding = [name for name in every if every[name].gpus]
    leave = bool(holding) and all(cluster.pool(name).min_workers == 0 for name in holding)
    gpus = max(p.gpus for p in every.values())
    return Pools(general, index, model, cpus, gpus, True, own, leave)


def has_index_gpu(cluster: Cluster, device: Device | None) -> bool:
    """Whether FAISS has GPUs: where a device is named, unless its pool is set to 0."""
    return device is not None and cluster.pool("index").gpus != 0


@dataclass(frozen=True)
class Rates:
    """What was measured, or is known of a device.

    Attributes:
        ingest: seconds a row of the corpus, and of the queries.
        tokenise: seconds a document, and a query, by all tokenizers.
        encoder: of a document, None for a toy.
        query: of a query by the encoder, as a share of a document's.
        steps: of a pair, for every rerank step, None for a toy.
        checked: whether a step is also scored in fp32.
        searching: the first stage.
        dense_gpu: seconds of a GPU a query and document; None where FAISS runs on CPUs.
    """

    ingest: tuple[float, float]
    tokenise: tuple[float, float]
    encoder: Rate | None
    query: float
    steps: tuple[Rate | None, ...]
    checked: tuple[bool, ...]
    searching: Searching
    dense_gpu: float | None


@dataclass(frozen=True)
class StageCost:
    """One stage: units, wall seconds, core-seconds, seconds of GPUs at work; GPUs that are held."""

    units: int
    seconds: float
    core_seconds: float
    gpu_seconds: float = 0.0
    gpus: float = 0.0


def spent(
    config: PipelineConfig,
    shape: Shape,
    small: Miniature,
    rates: Rates,
    pools: Pools,
    lists: tuple[int, int],
) -> dict[str, StageCost]:
    """Every stage of a full run, in its order; a first line for the start of processes.

    Args:
        config: the experiment.
        shape: the job.
        small: the miniature.
        rates: what was measured.
        pools: who works.
        lists: rows of all partial lists, and of all candidates.
    """
    units, over = units_of(shape), small.overhead
    steps = [step.name for step in shape.steps]
    documents, queries = shape.corpus.kept, shape.queries.distinct
    few, asked = small.documents, small.queries

    def by(stage: str, rows: int) -> float:
        return small.seconds(stage, rows)

    def general(stage: str, core: float, each: Pool | None = None, threads: int = 1) -> StageCost:
        """A stage of even units; `core` seconds beside what each unit costs by itself."""
        pool, count = pools.of(stage, each or pools.general), units[stage]
        unit = core / max(1, count) / threads + over
        wall = math.ceil(count / pool.workers) * unit
        return StageCost(count, wall, core + count * over, gpus=pools.held(pool))

    def of_model(stage: str, rate: Rate | None, rows: float, toy: float) -> StageCost:
        pool, count = pools.of(stage, pools.model, steps), units[stage]
        if rate is None:
            return general(stage, toy * rows, pool)
        core = rate.seconds * rows
        if rate.on_gpu:
            busy = max(1.0, min(pool.gpus or 1.0, count))
            wall = core / busy + over * count / pool.workers
            return StageCost(count, wall, count * over, core, pools.held(pool))
        return general(stage, core, pool, pool.threads)

    searching, index = rates.searching, pools.index
    work: dict[str, Callable[[], StageCost]] = {
        "ingest corpus": lambda: general("ingest corpus", rates.ingest[0] * shape.corpus.rows),
        "ingest queries": lambda: general("ingest queries", rates.ingest[1] * shape.queries.rows),
        "extract": lambda: general(
            "extract", max(rates.ingest[0], by("extract", few)) * shape.corpus.rows
        ),
        "tokenize documents": lambda: general(
            "tokenize documents", rates.tokenise[0] * documents, pools.model
        ),
        "tokenize queries": lambda: general(
            "tokenize queries", rates.tokenise[1] * queries, pools.model
        ),
        "embed documents": lambda: of_model(
            "embed documents", rates.encoder, documents, by("embed documents", few)
        ),
        "embed queries": lambda: of_model(
            "embed queries", rates.encoder, queries * rates.query, by("embed queries", asked)
        ),
        "train index": lambda: general("train index", _training(config, shape, small, rates)),
        "build index": lambda: general(
            "build index", (searching.add + by("build index", few)) * documents, index
        ),
        "search": lambda: _search(shape, rates, pools, over),
    }
    costs = {"start": _start(pools, rates)}
    for stage in small.stages:
        step = next((i for i, each in enumerate(shape.steps) if each.name == stage), None)
        if stage in work:
            costs[stage] = work[stage]()
        elif step is not None:
            scored = small.rows(stage, "scores")
            rate, pairs = rates.steps[step], float(shape.steps[step].pairs)
            if rates.checked[step]:
                pairs += EXACT_COST * _checked(shape) * pairs / max(1, queries)
            costs[stage] = of_model(stage, rate, pairs, by(stage, scored))
        else:
            rows, all_rows = _rows(stage, shape, small, lists)
            costs[stage] = general(stage, by(stage, rows) * all_rows)
    return costs


def _rows(label: str, shape: Shape, small: Miniature, lists: tuple[int, int]) -> tuple[int, int]:
    """Rows of the miniature and of the job that a stage's seconds are proportional to."""
    name = name_of(label, {step.name for step in shape.steps})
    documents = small.documents, shape.corpus.kept
    queries = small.queries, shape.queries.distinct
    if name == "merge":  # Reads the partial list of every group.
        return small.rows("search", "candidates"), lists[0]
    if name == "changes":  # Compares one list of every query_id.
        return small.queries, shape.queries.kept
    of_queries = reads_queries(label)
    by_quantity: dict[Quantity, tuple[int, int]] = {
        "input rows": queries if of_queries else (small.documents, shape.corpus.accepted),
        "documents": documents,
        "texts": queries if of_queries else documents,
        "queries": queries,
        "lists": (small.rows("merge", "candidates"), lists[1]),
        "one": (small.documents, 0),
    }
    return by_quantity[scales_with(name)]


def _start(pools: Pools, rates: Rates) -> StageCost:
    """Ray, imports and models before anything is done; in one process its imports are there."""
    loads = [rate.load_seconds for rate in (rates.encoder, *rates.steps) if rate]
    seconds = sum(loads)
    if pools.is_ray:
        seconds += RAY_SECONDS + 2 * IMPORT_SECONDS
    return StageCost(0, seconds, 0.0, gpus=pools.held(pools.model))


def _checked(shape: Shape) -> int:
    """Queries that are scored in fp32 too."""
    queries = shape.queries.distinct
    share = min(CHECKED_MOST, max(CHECKED_LEAST, queries // CHECKED_SHARE))
    return min(share, -(-queries // shape.query_shards))


def _search(shape: Shape, rates: Rates, pools: Pools, over: float) -> StageCost:
    """All queries against all groups, each worker opens the groups it searches."""
    queries, documents = shape.queries.distinct, shape.corpus.kept
    searching, pool = rates.searching, pools.of("search", pools.index)
    count = units_of(shape)["search"]
    dense = searching.dense if shape.flat else searching.dense / APPROXIMATE_GAIN
    gpu, each = 0.0, searching.bm25
    # Only Flat is searched on a GPU (`retrieval/faiss_products.py`).
    if rates.dense_gpu is not None and pool.gpus and shape.flat:
        gpu = rates.dense_gpu * queries * documents
    else:
        each += dense
    core = queries * (searching.query * shape.groups + each * documents)
    unit = core / count / pool.threads + over
    opened = math.ceil(shape.groups / pool.workers) * shape.group_bytes / OPEN_BYTES_PER_SECOND
    wall = math.ceil(count / pool.workers) * unit + opened + gpu / max(1.0, pool.gpus)
    return StageCost(count, wall, core + count * over, gpu, pools.held(pool))


def _training(config: PipelineConfig, shape: Shape, small: Miniature, rates: Rates) -> float:
    """BM25's statistics, and for an approximate index its trials and k-means."""
    documents, settings = shape.corpus.kept, config.index
    counted = min(documents, train_index.STATISTICS_DOCUMENTS)
    core = small.seconds("train index", small.documents) * counted
    if shape.flat:
        return core
    rows = min(settings.train_rows, documents)
    lists = 2 * math.sqrt(documents)
    trials = TRIALS * 4096 if settings.factory == "auto" else 0
    return core + rates.searching.dense * rows * (KMEANS_ROUNDS * lists + trials)
