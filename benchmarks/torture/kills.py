"""Driver processes killed at random instants: what they publish in the end is what it should be."""

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
from benchmarks.year import Nights
from nightrank.errors import NightrankError
from nightrank.generations.results import generation_of, open_lake

SECTIONS = {
    "layout": {"document_shard_rows": 100, "query_shard_rows": 12},
    "retrieve": {"depth": 20},
    "rerank": {"model": "toy:overlap", "depth": 20},
}
MOST_KILLS = 5


def published(root: Path) -> dict[str, list[str]] | None:
    """sha256 of every file that a reader gets, by table; None where nothing is published."""
    try:
        entry = generation_of(open_lake(str(root), "year"))
    except NightrankError as error:
        if error.code != "E_EMPTY":
            raise
        return None
    return {name: [f["sha256"] for f in files] for name, files in entry.body["files"].items()}


def records(root: Path) -> dict[str, bytes]:
    """Every record of a committed shard."""
    return {str(path): path.read_bytes() for path in root.rglob("_done/*.json")}


class Job:
    """A run from nothing or a night upon an earlier one, and how it ends where nobody disturbs it.

    Attributes:
        seconds: how long it takes then.
        before: what readers get before it publishes.
        wanted: what they get afterwards.
    """

    def __init__(self, world: Nights, drivers: Drivers, base: Path | None) -> None:
        self.world, self.base, self.drivers = world, base, drivers
        root = world.work / "undisturbed"
        self._begin(root)
        self.before = published(root)
        started = time.monotonic()
        code, told = drivers.run("run", str(world.config_of(root)))
        if code:
            raise RuntimeError(f"the undisturbed run ended with {code}: {told}")
        self.seconds, self.wanted = time.monotonic() - started, published(root)

    def _begin(self, root: Path) -> None:
        shutil.rmtree(root, ignore_errors=True)
        if self.base:
            shutil.copytree(self.base, root)

    def torment(self, rng: random.Random) -> tuple[int, list[str]]:
        """One sequence of kills and the run that gets through: kills, and what was wrong."""
        root, wrong, kills = self.world.work / "tormented", [], 0
        self._begin(root)
        config = str(self.world.config_of(root))
        for _ in range(rng.randint(1, MOST_KILLS)):
            instant = rng.uniform(0, self.seconds)
            process = self.drivers.start("run", config)
            time.sleep(instant)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            code, told = self.drivers.wait()
            kills += code == -signal.SIGKILL
            if code not in (0, -signal.SIGKILL):
                wrong.append(f"exit {code}: {told}")
            if published(root) not in (self.before, self.wanted):
                wrong.append(f"readers saw a mixture, {instant:.3f} s into a run")
        done = records(root)
        code, told = self.drivers.run("run", config)
        if code:
            wrong.append(f"did not resume: exit {code}: {told}")
        elif published(root) != self.wanted:
            wrong.append("published other bytes than the undisturbed run")
        if not done.items() <= records(root).items():
            wrong.append("a committed shard was made again")
        return kills, wrong


def run(seconds: float, seed: int, work: Path) -> dict[str, Any]:
    """Torments runs from nothing and nights in turns until the time is up.

    Args:
        seconds: how long.
        seed: of the instants; the instants themselves depend on the machine.
        work: an empty folder, best in memory.

    Returns:
        Runs that were brought to their end, kills on the way, and every difference found.
    """
    rng, drivers = random.Random(seed), Drivers()
    ends = time.monotonic() + seconds
    world = Nights(work, rng, documents=300, queries=24, **SECTIONS)
    drivers.run("--help")  # By then its parent has imported everything.
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
            some, found = jobs[number].torment(rng)
            sequences, kills, wrong = sequences + 1, kills + some, wrong + found
    finally:
        drivers.close()
    return {"runs": sequences, "kills": kills, "wrong": wrong}
