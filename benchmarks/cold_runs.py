"""`nightrank run` in its own process on an empty lake: wall time and model time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def write(path: Path, items: list[dict[str, Any]]) -> None:
    """A JSONL file."""
    path.write_text("".join(json.dumps(item) + "\n" for item in items))


def cold_run(work: Path, name: str, sections: dict[str, Any]) -> dict[str, Any]:
    """Runs a config on the lake `work`/lake/`name`, which must not exist yet.

    Args:
        work: folder of the lake and the config.
        name: of the lake.
        sections: of the config.

    Returns:
        `documents`, `queries`, `pairs`, `wall` (seconds), `model` (seconds that workers spent in
        encoders and rerankers, divided by the number of processes), their sum `model_seconds`,
        `overhead` (the share of `wall` outside models), `stages`, `precision`, `ndcg`.
    """
    if (work / "lake" / name).exists():
        raise SystemExit(
            f"{work / 'lake' / name} exists, but the run needs an empty lake: remove it"
        )
    path = work / f"{name}.yaml"
    path.write_text(json.dumps({"name": name, "root": str(work / "lake"), **sections}))
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "nightrank", "run", str(path), "--json"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    wall = time.perf_counter() - begin
    summary = json.loads(done.stdout.splitlines()[-1])
    processes = len(os.sched_getaffinity(0))
    if sections.get("cluster", {}).get("executor") == "serial":
        processes = 1
    model = {"embed": 0.0, "rerank": 0.0}
    for file in (work / "lake" / name).rglob("_done/*.json"):
        stats = json.loads(file.read_text())["stats"]
        if "model_seconds" in stats:
            kind = "rerank" if "pairs_scored" in stats else "embed"
            model[kind] += stats["model_seconds"] / processes
    spent = sum(model.values())
    measures = summary.get("measures", {}).get("nDCG@10", {})
    return {
        "documents": summary["documents"]["in"],
        "queries": summary["queries"]["in"],
        "pairs": summary["pairs_scored"],
        "wall": wall,
        "model": model,
        "model_seconds": spent,
        "overhead": 1 - spent / wall,
        "stages": summary["seconds"],
        "precision": summary["precision"],
        "ndcg": measures.get("reranked"),
    }
