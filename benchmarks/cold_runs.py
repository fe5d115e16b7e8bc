"""`nightrank run` in a process of its own on a cold lake: its wall, and what of it models took."""

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
    """Runs a configuration whose lake is `work`/lake/`name`, which must not be there yet.

    Model time is what workers spent inside encoders and rerankers, divided by the processes at it.

    Args:
        work: folder of the lake and the configuration.
        name: of the lake.
        sections: of the configuration.
    """
    if (work / "lake" / name).exists():
        raise SystemExit(f"{work / 'lake' / name} exists: the lake is to be cold; remove it")
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
