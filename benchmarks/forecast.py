"""The forecast of `nightrank plan` beside the actual run, for a run and one eight times as large.

    python -m benchmarks.forecast [--data DATA] --work WORK --out benchmarks/results

Built-in models in bf16, texts as in `benchmarks.scoring`; each plan and each run has its own
process and an empty lake. On Ray wall seconds are compared, including the start of Ray, workers and
models. In one process the CPU time of the process, including the start of Python, is compared with
the forecast core-seconds: other work on the machine hardly changes either.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.arguments import add_data, add_out
from benchmarks.cold_runs import write
from benchmarks.reporting import machine, table
from benchmarks.texts import mixed

DOCUMENTS, QUERIES, DEPTH = 600, 12, 25
SIZES = {"once": 1, "eight times": 8}
WITHIN = 0.25


def nightrank(verb: str, config: Path) -> tuple[dict[str, Any], float]:
    """The closing line of a verb, from its JSON, and the CPU seconds of its process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "nightrank", verb, str(config), "--json"]
    completed = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(completed.stdout.splitlines()[-1]), cpu_seconds


def plan_and_run(work: Path, texts: Any, times: int, executor: str) -> dict[str, Any]:
    """Plans and runs one config.

    Returns:
        `pairs`; `forecast` and `actual` (wall seconds on Ray, core-seconds in one process); both by
        stage.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    sections: dict[str, Any] = {"name": "forecast", "root": str(work / "lake")}
    for kind, items, count in (
        ("corpus", texts.documents, times * DOCUMENTS),
        ("queries", texts.queries, times * QUERIES),
    ):
        path = work / f"{kind}.jsonl"
        write(path, [{"_id": str(i), "text": text} for i, text in enumerate(items[:count])])
        sections[kind] = {"path": str(path)}
    sections |= {
        "encoder": {"precision": "auto"},
        "retrieve": {"depth": DEPTH},
        "rerank": {"depth": DEPTH},
        "cluster": {"executor": executor},
    }
    config = work / "forecast.yaml"
    config.write_text(json.dumps(sections))
    forecast, _ = nightrank("plan", config)
    closing, cpu_seconds = nightrank("run", config)
    measure = "seconds" if executor == "ray" else "core_seconds"
    stages = {name: stage[measure] for name, stage in forecast["stages"].items()}
    return {
        "pairs": closing["pairs_scored"],
        "forecast": sum(stages.values()),
        "actual": closing["actual"]["seconds"] if executor == "ray" else cpu_seconds,
        "forecast_stages": stages,
        "stages": closing["actual"]["stages"],
    }


def as_markdown(runs: dict[str, dict[str, Any]]) -> str:
    lines = [
        [
            name,
            f"{run['pairs']:,}",
            f"{run['forecast']:.1f} s",
            f"{run['actual']:.1f} s",
            f"{run['actual'] / run['forecast'] - 1:+.0%}",
        ]
        for name, run in runs.items()
    ]
    within = all(abs(run["actual"] / run["forecast"] - 1) <= WITHIN for run in runs.values())
    verdict = "all" if within else "not all"
    text = table(["run", "pairs", "forecast", "actual", "actual beside forecast"], lines)
    return (
        text
        + f"\nOn Ray wall seconds, in one process core-seconds; {verdict} within {WITHIN:.0%}.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data(parser)
    parser.add_argument("--work", type=Path, required=True)
    add_out(parser)
    parser.add_argument("--executor", choices=["ray", "serial"], help="only this executor")
    args = parser.parse_args()
    texts = mixed(args.data, max(SIZES.values()) * QUERIES, random.Random(0))
    random.Random(1).shuffle(texts.documents)
    runs = {}
    for executor in [args.executor] if args.executor else ["ray", "serial"]:
        for size, times in SIZES.items():
            name = f"{size}, {'on Ray' if executor == 'ray' else 'one process'}"
            runs[name] = plan_and_run(args.work, texts, times, executor)
            print(json.dumps({name: runs[name]}), flush=True)
    print(as_markdown(runs))
    if args.out:
        result = {**machine(), "runs": runs}
        (args.out / "forecast.json").write_text(json.dumps(result, indent=1) + "\n")
        (args.out / "forecast.md").write_text(as_markdown(runs))


if __name__ == "__main__":
    main()
