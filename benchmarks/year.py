"""A year of incremental runs in minutes: does anything grow that should not?

    python -m benchmarks.year --work WORK --out benchmarks/results [--runs 365]

Toy models, 2,000 documents and 200 queries of random words. Each round replaces about 1 % of the
documents and a few queries, runs `nightly`, verifies all bytes that it published, makes each file a
day older and collects garbage. Reported are the bytes of the lake divided by those that the current
generation needs, open files and memory of the process, segments, and seconds for each run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

import nightrank
from benchmarks.arguments import add_out
from benchmarks.nightly import size, write
from benchmarks.reporting import machine
from nightrank.generations.results import generation_of, open_lake
from nightrank.generations.retention import collect, collectable
from nightrank.generations.verification import verify_generation
from nightrank.storage.log import Log

WORDS = [f"word{i:03d}" for i in range(400)]
DAY = 86_400


class ChangingInputs:
    """A corpus and queries of random words that change before each run, and their config.

    Attributes:
        config: the path of the config; its lake is `root`.
    """

    def __init__(
        self, work: Path, rng: random.Random, documents: int, queries: int, **sections: Any
    ) -> None:
        self.work, self.root, self.rng = work, work / "lake", rng
        self.documents = {f"d{i:05d}": self._text() for i in range(documents)}
        self.queries = {f"q{i:04d}": " ".join(rng.sample(WORDS, 4)) for i in range(queries)}
        work.mkdir(parents=True, exist_ok=True)
        self._sections = sections
        self.config = self.config_of(self.root)
        self.write()

    def config_of(self, root: Path) -> Path:
        """Writes a config of these inputs and a lake; its path."""
        plain = {
            "name": "year",
            "root": str(root),
            "corpus": {"path": str(self.work / "corpus.jsonl")},
            "queries": {"path": str(self.work / "queries.jsonl")},
            "encoder": {"model": "toy:bag-of-words"},
            "retrieve": {"depth": 50},
            "rerank": {"model": "toy:overlap", "depth": 50},
            "cluster": {"executor": "serial"},
            "gate": {"min_overlap": 0.0},
            **self._sections,
        }
        path = self.work / f"{root.name}.yaml"
        path.write_text(json.dumps(plain))
        return path

    def _text(self) -> str:
        return " ".join(self.rng.choices(WORDS, k=self.rng.randint(8, 40)))

    def change(self) -> None:
        """Replaces 1 % of the documents, under old and new ids, and 1 % of the queries."""
        for name in self.rng.sample(sorted(self.documents), max(1, len(self.documents) // 100)):
            if self.rng.random() < 0.5:
                self.documents[name] = self._text()
            else:
                del self.documents[name]
                self.documents[f"d{self.rng.randrange(10**6):06d}"] = self._text()
        for name in self.rng.sample(sorted(self.queries), max(1, len(self.queries) // 100)):
            self.queries[name] = " ".join(self.rng.sample(WORDS, 4))
        self.write()

    def write(self) -> None:
        """Writes the current inputs."""
        for name, rows in (("corpus", self.documents), ("queries", self.queries)):
            write(self.work / f"{name}.jsonl", [{"_id": n, "text": t} for n, t in rows.items()])

    def run(self) -> dict[str, Any]:
        """Runs `nightly`, verifies, ages and collects garbage; figures of the lake and process."""
        store = open_lake(str(self.root), "year")
        started = time.monotonic()
        work = nightrank.nightly(self.config, progress=False).work
        seconds = time.monotonic() - started
        verify_generation(store, generation_of(store))
        make_older(self.root)
        collect(store, retain=3, min_age_days=2)
        return {
            "seconds": round(seconds, 2),
            "pairs_scored": work.pairs_scored / work.pairs_needed,
            **state(store, self.root),
        }


def make_older(root: Path) -> None:
    """Makes every file a day older."""
    for path in root.rglob("*"):
        if path.is_file():
            stat = path.stat()
            os.utime(path, (stat.st_atime, stat.st_mtime - DAY))


def state(store: Any, root: Path) -> dict[str, Any]:
    """Sizes and counts of the lake and this process."""
    spare = sum(one.bytes for one in collectable(store, retain=1, min_age_days=1))
    used = size(root)
    index = Log(store, "index").current()
    memory = Path("/proc/self/statm").read_text().split()[1]
    return {
        "bytes": used,
        "over_live": round(used / (used - spare), 3),
        "segments": len(index.body["segments"]) if index else 0,
        "open_files": len(os.listdir("/proc/self/fd")),
        "memory_mb": int(memory) * os.sysconf("SC_PAGE_SIZE") // 1_000_000,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    add_out(parser, required=True)
    parser.add_argument("--runs", type=int, default=365)
    args = parser.parse_args()
    year = ChangingInputs(args.work, random.Random(0), documents=2000, queries=200)
    store = open_lake(str(year.root), "year")
    rounds: list[dict[str, Any]] = []
    for number in range(args.runs):
        if number:
            year.change()
        rounds.append({"run": number, **year.run()})
        if number % 30 == 0 or number + 1 == args.runs:
            print(json.dumps(rounds[-1]), flush=True)
    later = rounds[len(rounds) // 10 :]
    merged = [e for e in Log(store, "index").published() if e.body["compacted"]]
    result = {
        **machine(),
        "runs": args.runs,
        "verified": len(rounds),
        "largest_over_live": max(n["over_live"] for n in later),
        "segments": max(n["segments"] for n in later),
        "merges": len(merged),
        "retrained": len({e.body["template"]["path"] for e in Log(store, "index").published()}) - 1,
        "median_share_scored": statistics.median(n["pairs_scored"] for n in later),
        "series": [n for n in rounds if n["run"] % 30 == 0 or n is rounds[-1]],
    }
    (args.out / "year.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "series"}))


if __name__ == "__main__":
    main()
