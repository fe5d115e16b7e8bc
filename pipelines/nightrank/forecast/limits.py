"""What a plan exceeds: memory, disks, deadlines, budgets; and samples that are too small."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

from nightrank.config.schema import PipelineConfig
from nightrank.errors import NightrankError
from nightrank.forecast.hardware import GIB, Device
from nightrank.forecast.sampling import Sample
from nightrank.forecast.shape import Shape
from nightrank.forecast.times import Pools
from nightrank.models.folders.network_size import CUDA_BYTES, Network
from nightrank.models.hardware import has_cuda
from nightrank.retrieval.faiss_products import GPU_BYTES
from nightrank.runtime.deadline import local_time, next_time
from nightrank.runtime.unit import MAX_UNITS
from nightrank.storage.headroom import free_space

# Of a sample of n rows the mean length of a text has an error of its spread / sqrt(n): 3 % at 1000.
ENOUGH_ROWS = 1000
# The merge of 16 partial lists of 262,144 queries (`stages/merge.py`) and a worker's own.
WORKER_BYTES = 1 * GIB
# What FAISS reserves on a GPU for its own work (faiss/gpu/StandardGpuResources.cpp), and CUDA's.
FAISS_GPU_BYTES = 3 * GIB // 2 + CUDA_BYTES


@dataclass(frozen=True)
class Memory:
    """Bytes in memory.

    Attributes:
        group: one search worker's group.
        index_shard: building one index shard: its vectors twice, the index, and the index again
            as it is read to check what was written.
        node: what the search workers of one node hold, if all run on it.
        available: a node's memory.
        models: bytes on a GPU by model; empty without one.
        index_gpu: bytes on a GPU to search a Flat group, or to build an approximate shard; 0 where
            FAISS runs on CPUs.
    """

    group: int
    index_shard: int
    node: int
    available: int
    models: dict[str, int]
    index_gpu: int = 0


def memory_of(
    shape: Shape,
    pools: Pools,
    vector_bytes: float,
    available: int,
    networks: Mapping[str, tuple[Network, str]],
    factory: str = "auto",
) -> Memory:
    """What is held at once.

    Args:
        shape: the job.
        pools: who works.
        vector_bytes: of a stored vector.
        available: a node's memory.
        networks: by model, with its precision, where they run on a GPU.
        factory: `index.factory`.
    """
    shard = shape.corpus.kept / max(1, shape.index_shards)
    building = 2 * vector_bytes * shard + 2 * shape.index_bytes / max(1, shape.index_shards)
    workers = min(pools.index.workers, shape.groups * shape.query_shards)
    node = workers * (shape.group_bytes + WORKER_BYTES)
    models = {name: net.gpu_bytes(precision) for name, (net, precision) in networks.items()}
    index_gpu = 0
    if shape.flat and pools.of("search", pools.index).gpus:
        # Half precision, in blocks of at most so much of vectors and of queries with results.
        half = vector_bytes * shape.corpus.kept / shape.groups / 2
        index_gpu = round(min(GPU_BYTES, half)) + GPU_BYTES + FAISS_GPU_BYTES
    elif not shape.flat and factory != "auto" and pools.of("build index", pools.index).gpus:
        # Of the forms that `auto` takes none has one for GPUs.
        index_gpu = round(shape.index_bytes / max(1, shape.index_shards)) + FAISS_GPU_BYTES
    return Memory(shape.group_bytes, round(building), node, available, models, index_gpu)


def machine_memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check(memory: Memory, device: Device | None) -> None:
    """Refuses a plan that does not fit.

    Raises:
        NightrankError: E_CONFIG where a model does not fit the GPU, or a group or an index shard
            does not fit a node by itself.
    """
    for name, size in memory.models.items():
        if device and size > device.memory:
            what = f"{name} needs {_gib(size)} with a full batch, {device.name} has "
            what += _gib(device.memory)
            raise NightrankError("E_CONFIG", what, "--device", "choose a larger GPU or model")
    if device and memory.index_gpu > device.memory:
        what = f"FAISS takes {_gib(memory.index_gpu)} of a GPU, {device.name} has "
        do = "lower index.shard_bytes, or give cluster.pools.index gpus: 0"
        raise NightrankError("E_CONFIG", what + _gib(device.memory), "--device", do)
    for size, holder, key in (
        (memory.group, "a search group", "search.memory_bytes"),
        (memory.index_shard, "building an index shard", "index.shard_bytes"),
    ):
        if size > memory.available:
            what = f"{holder} takes {_gib(size)}, a node has {_gib(memory.available)}"
            raise NightrankError("E_CONFIG", what, key, f"lower {key}, or name --node-memory")


def warnings_of(
    config: PipelineConfig,
    samples: tuple[Sample, Sample],
    shape: Shape,
    memory: Memory,
    pools: Pools,
    size: int,
    seconds: float,
    device: Device | None,
) -> list[str]:
    """Everything an operator should know before it begins."""
    warnings = []
    for name, sample in zip(("corpus", "queries"), samples, strict=True):
        if not sample.whole and sample.table.num_rows < ENOUGH_ROWS:
            warnings.append(
                f"{name}: {sample.table.num_rows} sampled rows are too few to estimate lengths"
            )
    if (
        memory.node > memory.available
        and pools.index.workers > 1
        and not config.cluster.existing_address
    ):
        warnings.append(
            f"{pools.index.workers} search workers hold {_gib(memory.node)}, a node has"
            f" {_gib(memory.available)}: lower search.memory_bytes or cluster.pools.*.workers"
        )
    sized = [name for name in ("general", "model") if config.cluster.pool(name).workers]
    if config.cluster.existing_address and len(sized) < 2:
        warnings.append(
            "the cluster's size is not known here: set workers of cluster.pools.general and .model"
        )
    if lacks_its_gpus(config, device):
        warnings.append(
            "pools have GPUs and this machine has none: its CPU was timed; name --device"
        )
    units = max(step.units for step in shape.steps) if shape.steps else 0
    if units > MAX_UNITS // 2:
        warnings.append(f"{units:,} units of reranking: {MAX_UNITS:,} would be refused")
    return warnings + _disk(config, size) + _deadline(config, pools, seconds)


def lacks_its_gpus(config: PipelineConfig, device: Device | None) -> bool:
    """Whether workers are to have GPUs, and only this machine's CPU could be timed for them."""
    wanted = any(pool.gpus for pool in config.cluster.pools.values())
    return wanted and device is None and not has_cuda()


def _disk(config: PipelineConfig, size: int) -> list[str]:
    """A lake on a local disk that has less room than it needs."""
    space = free_space(config.root)
    if space is None or size <= space[1]:
        return []
    return [f"the lake takes {_gib(size)}, {space[0]} has {_gib(space[1])} free"]


def _deadline(config: PipelineConfig, pools: Pools, seconds: float) -> list[str]:
    """Limits of the budget that come before the predicted end."""
    budget, warnings = config.budget, list[str]()
    if budget.until:
        now = time.time()
        end, done = next_time(budget.until, now), now + seconds
        if done > end:
            warnings.append(
                f"started now it ends at {local_time(done)}, budget.until is {local_time(end)}"
            )
    hours = seconds / 3600
    if budget.gpu_hours is not None and pools.gpus * hours > budget.gpu_hours:
        warnings.append(
            f"{pools.gpus * hours:.1f} GPU-hours, budget.gpu_hours = {budget.gpu_hours:g}"
        )
    if budget.usd is not None and (budget.usd_per_hour or 0.0) * hours > budget.usd:
        spent = (budget.usd_per_hour or 0.0) * hours
        warnings.append(f"{spent:.2f} USD at budget.usd_per_hour, budget.usd = {budget.usd:g}")
    return warnings


def _gib(size: float) -> str:
    return f"{size / GIB:,.1f} GiB"
