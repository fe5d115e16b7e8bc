"""Incremental runs for a given time: only the data of the current generation may grow."""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.year import ChangingInputs
from nightrank.generations.results import open_lake
from nightrank.storage.log import Log

# Bytes of the lake by those that its current generation needs, with three generations kept.
MOST_OVER_LIVE = 2.0
# Memory of the last runs by that of the middle ones: allocators keep memory that they once had.
MOST_GROWTH = 1.25


def run(seconds: float, seed: int, work: Path) -> dict[str, Any]:
    """Runs, verifies and collects garbage until the time is up.

    Args:
        seconds: how long.
        seed: of the changes.
        work: an empty folder.

    Returns:
        The number of runs, the extremes of the figures, and each limit that was exceeded.
    """
    ends = time.monotonic() + seconds
    world = ChangingInputs(work, random.Random(seed), documents=500, queries=50)
    runs: list[dict[str, Any]] = []
    while time.monotonic() < ends or len(runs) < 6:
        if runs:
            world.change()
        runs.append(world.run())
    log = Log(open_lake(str(world.root), "year"), "results")
    numbers, readable = log.generations(), len(log.published())
    # The first runs fill caches and pools.
    later = runs[len(runs) // 3 :]
    half = len(later) // 2 or 1
    memory = [
        statistics.median(n["memory_mb"] for n in part) for part in (later[:half], later[half:])
    ]
    files = [max(n["open_files"] for n in part) for part in (later[:half], later[half:])]
    over = max(run["over_live"] for run in later)
    wrong = []
    if over > MOST_OVER_LIVE:
        wrong.append(f"the lake held {over:.2f} times what its current generation needs")
    if memory[1] > MOST_GROWTH * memory[0]:
        wrong.append(f"memory grew from {memory[0]:.0f} to {memory[1]:.0f} MB")
    if files[1] > files[0]:
        wrong.append(f"open files grew from {files[0]} to {files[1]}")
    if numbers != list(range(1, len(numbers) + 1)) or readable < len(runs):
        wrong.append(f"the log holds {readable} readable generations of {len(runs)} runs")
    return {
        "runs": len(runs),
        "largest_over_live": over,
        "memory_mb": memory,
        "open_files": files,
        "log_entries": len(numbers),
        "wrong": wrong,
    }
