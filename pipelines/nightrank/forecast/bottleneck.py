"""What a run waits for longest, and the setting that moves it."""

from __future__ import annotations

import os
from typing import Any

from nightrank.config.running import STANDARD_POOLS
from nightrank.config.schema import PipelineConfig
from nightrank.forecast.lines import name_of, pool_of, reads_queries, scales_with
from nightrank.runtime.stage import Quantity

# The setting that bounds the size of a stage's units, to get more of them; other stages have none.
DOCUMENT_ROWS, QUERY_ROWS = "layout.document_shard_rows", "layout.query_shard_rows"
CUT_BY: dict[Quantity, str] = {
    "documents": DOCUMENT_ROWS,
    "queries": QUERY_ROWS,
    "lists": QUERY_ROWS,
    "pairs": "rerank.unit_tokens",
}
# Stages that are cut otherwise than their quantity; `changes` by a constant.
CUT_ALONE = {"build_index": "index.shard_bytes", "train_index": "index.train_rows", "changes": ""}


def bottleneck(config: PipelineConfig, forecast: dict[str, Any]) -> dict[str, Any] | None:
    """The stage that takes longest, what it waits for, and the key of the config for that.

    Args:
        config: the experiment.
        forecast: as `predict` or `next_run` gives it.

    Returns:
        `stage`, `seconds`, `setting`, and all of it as `text`; None where no stage takes time.
    """
    stages = {name: one for name, one in forecast["stages"].items() if name != "start"}
    if not any(stage["seconds"] for stage in stages.values()):
        return None
    name = max(stages, key=lambda each: float(stages[each]["seconds"]))
    setting, waits = _waits(config, forecast["pools"], name, int(stages[name]["units"]))
    text = f"{name} {waits}: {setting}" if setting else f"{name} {waits}"
    return {"stage": name, "seconds": stages[name]["seconds"], "setting": setting, "text": text}


def _waits(config: PipelineConfig, pools: dict[str, Any], name: str, units: int) -> tuple[str, str]:
    """The setting (empty without one) and what the stage waits for."""
    if not pools["is_ray"]:
        return "cluster.executor", "waits for the only process (serial)"
    stage = name_of(name, {step.name for step in config.rerank})
    pool, workers = _pool(config, pools, stage)
    if units > workers:
        waits = f"waits for {workers} {pool} worker" + "s" * (workers != 1)
        cores = os.cpu_count() or 1
        if not config.cluster.existing_address and not pools["gpus"] and workers >= cores:
            waits += f" on this machine's {cores} cores (for more, set cluster.address)"
        return f"cluster.pools.{pool}.workers", waits
    counted = f"{units} unit" if units == 1 else f"{units} units"
    return _cut_by(name, stage), f"is {counted} for {workers} {pool} workers"


def _cut_by(label: str, name: str) -> str:
    """The key that bounds the units of a stage; empty without one."""
    if name in CUT_ALONE:
        return CUT_ALONE[name]
    quantity = scales_with(name)
    if quantity == "texts":
        return QUERY_ROWS if reads_queries(label) else DOCUMENT_ROWS
    return CUT_BY.get(quantity, "")


def _pool(config: PipelineConfig, pools: dict[str, Any], kind: str) -> tuple[str, int]:
    """The pool that a kind of stage runs on, and its workers; see `Pools.name_of` of Ray's."""
    for name, wanted in config.cluster.pools.items():
        if kind in wanted.stages and name not in STANDARD_POOLS:
            return name, int(pools["own"][kind]["workers"])
    pool: str = pool_of(kind)
    if pool == "index" and "index" not in config.cluster.pools and not pools["index"]["gpus"]:
        pool = "general"
    return pool, int(pools[pool]["workers"])
