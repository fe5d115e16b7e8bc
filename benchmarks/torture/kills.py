"""Driver processes killed at random instants: they publish what an undisturbed run publishes."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from benchmarks.torture.drivers import Drivers
from benchmarks.year import ChangingInputs
from nightrank.errors import NightrankError
from nightrank.generations.results import generation_of, open_lake

SECTIONS = {
    "layout": {"document_shard_rows": 100, "query_shard_rows": 12},
    "retrieve": {"depth": 20},
    "rerank": {"model": "toy:overlap", "depth": 20},
}
MOST_KILLS = 5


def published(root: Path) -> dict[str, list[str]] | None:
    """sha256 of each published file, by table; None if nothing is published."""
    try:
        entry = generation_of(open_lake(str(root), "year"))
    except NightrankError as error:
        if error.code != "E_EMPTY":
            raise
        return None
    return {name: [f["sha256"] for f in files] for name, files in entry.body["files"].items()}


def records(root: Path) -> dict[str, bytes]:
    """The bytes of all records, by path."""
    return {str(path): path.read_bytes() for path in root.rglob("_done/*.json")}


class Job:
    """A full or an incremental run, and its result when it is undisturbed.

    Attributes:
        seconds: of the undisturbed run.
        before: what is published before it, see `published`.
        wanted: what is published after it.
    """

    def __init__(self, world: ChangingInputs, drivers: Drivers, base: Path | None) -> None:
        self.world, self.base, self.drivers = world, base, drivers
        root = world.work / "undisturbed"
        self._begin(root)
        self.before = published(root)
        started = time.monotonic()
        code, last_line = drivers.run("run", str(world.config_of(root)))
        if code:
            raise RuntimeError(f"the undisturbed run ended with {code}: {last_line}")
        self.seconds, self.wanted = time.monotonic() - started, published(root)

    def _begin(self, root: Path) -> None:
        shutil.rmtree(root, ignore_errors=True)
        if self.base:
            shutil.copytree(self.base, root)

    def disturb(self, rng: random.Random) -> tuple[int, list[str]]:
        """Killed runs and one that completes: the number of kills, and differences."""
        root, wrong, kills = self.world.work / "disturbed", [], 0
        self._begin(root)
        config = str(self.world.config_of(root))
        for _ in range(rng.randint(1, MOST_KILLS)):
            instant = rng.uniform(0, self.seconds)
            process = self.drivers.start("run", config)
            time.sleep(instant)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            code, last_line = self.drivers.wait()
            kills += code == -signal.SIGKILL
            if code not in (0, -signal.SIGKILL):
                wrong.append(f"exit {code}: {last_line}")
            if published(root) not in (self.before, self.wanted):
                wrong.append(f"readers saw a mixture after a kill {instant:.3f} s into a run")
        done = records(root)
        code, last_line = self.drivers.run("run", config)
        if code:
            wrong.append(f"did not resume: exit {code}: {last_line}")
        elif published(root) != self.wanted:
            wrong.append("published other bytes than the undisturbed run")
        if not done.items() <= records(root).items():
            wrong.append("a committed shard was recomputed")
        return kills, wrong


def run(seconds: float, seed: int, work: Path) -> dict[str, Any]:
    """Disturbs full and incremental runs in turns until the time is up.

    Args:
        seconds: how long.
        seed: of the instants; the instants themselves depend on the machine.
        work: an empty folder, preferably in memory.

    Returns:
        The numbers of completed runs and of kills, and all differences.
    """
    rng, drivers = random.Random(seed), Drivers()
    ends = time.monotonic() + seconds
    world = ChangingInputs(work, rng, documents=300, queries=24, **SECTIONS)
    drivers.run("--help")  # Then the parent process has imported everything.
    try:
        jobs = [Job(world, drivers, None)]
        base = work / "base"
        (work / "undisturbed").rename(base)
        first = dict(world.documents), dict(world.queries)
        world.change()
        second = dict(world.documents), dict(world.queries)
        jobs.append(Job(world, drivers, base))
        sequences = kills = 0
        wrong: list[str] = []
        while time.monotonic() < ends:
            number = sequences % 2
            world.documents, world.queries = (first, second)[number]
            world.write()
            killed, differences = jobs[number].disturb(rng)
            sequences, kills, wrong = sequences + 1, kills + killed, wrong + differences
    finally:
        drivers.close()
    return {"runs": sequences, "kills": kills, "wrong": wrong}
