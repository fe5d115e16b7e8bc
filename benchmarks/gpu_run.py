"""A whole run on a GPU: the seconds of each stage and the share of them in which the GPU is idle.

    python -m benchmarks.gpu_run --data DATA/medquad --work WORK [--out benchmarks/results]

`nightrank run` in one process with the built-in models, twice on empty lakes: the first run
compiles the layers of the models, the second uses the compiled ones, as later runs on a machine do.
`nvidia-smi` reports every 50 ms the share of its last sample in which a kernel ran.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks import beir
from benchmarks.arguments import add_collection, add_out
from benchmarks.cold_runs import cold_run, write
from benchmarks.reporting import machine, table

Sample = tuple[float, float]


def samples(log: Path) -> list[Sample]:
    """Unix seconds and the share of busy time of each line of nvidia-smi's log."""
    shares = []
    for line in log.read_text().splitlines():
        moment, _, share = line.partition(", ")
        try:
            when = datetime.strptime(moment, "%Y/%m/%d %H:%M:%S.%f").timestamp()
            shares.append((when, float(share) / 100))
        except ValueError:
            continue  # The last line may be incomplete.
    return shares


def spans(lake: Path) -> dict[str, tuple[float, float]]:
    """Start and end of each stage in Unix seconds, from the events of the run."""
    begun, ended = {}, {}
    for file in sorted(lake.rglob("events-*.jsonl")):
        for line in file.read_text().splitlines():
            event = json.loads(line)
            when = datetime.fromisoformat(event["time"]).timestamp()
            if event["event"] == "stage_started":
                begun[event["stage"]] = when
            if event["event"] == "stage_finished":
                ended[event["stage"]] = (begun[event["stage"]], when)
    return ended


def idle_by_stage(lake: Path, busy: list[Sample]) -> dict[str, dict[str, float]]:
    """Seconds and idle share of each stage that takes more than a second."""
    stages = {}
    for name, (begin, end) in spans(lake).items():
        # The first sample within a stage covers time before it.
        inside = [share for when, share in busy if begin + 0.2 <= when <= end]
        if end - begin > 1 and inside:
            stages[name] = {"seconds": end - begin, "idle": 1 - sum(inside) / len(inside)}
    return stages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_collection(parser)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=100_000)
    add_out(parser)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    queries = args.work / "queries.jsonl"
    few = itertools.islice(beir.rows(args.data, "queries"), args.queries)
    write(queries, list(few))
    sections: dict[str, Any] = {
        "corpus": {"path": str(beir.path(args.data, "corpus"))},
        "queries": {"path": str(queries)},
        "retrieve": {"depth": 100},
        "rerank": {"depth": 100},
        "cluster": {"executor": "serial"},
    }
    asked = "--query-gpu=timestamp,utilization.gpu"
    runs, lines = {}, []
    for name in ("first", "second"):
        log = args.work / f"{name}.csv"
        with log.open("w") as out:
            watch = subprocess.Popen(
                ["nvidia-smi", asked, "--format=csv,noheader,nounits", "-lms", "50"], stdout=out
            )
            try:
                run = cold_run(args.work, name, sections)
            finally:
                watch.terminate()
                watch.wait()
        run["gpu"] = idle_by_stage(args.work / "lake" / name, samples(log))
        runs[name] = run
        for stage, each in run["gpu"].items():
            lines.append([name, stage, f"{each['seconds']:.1f} s", f"{each['idle']:.1%}"])
        lines.append([name, "the whole run", f"{run['wall']:.1f} s", ""])
        print(json.dumps({name: {k: run[k] for k in ("wall", "pairs", "ndcg", "gpu")}}), flush=True)
    text = table(["run", "stage", "seconds", "GPU idle"], lines)
    pairs = f"{runs['first']['pairs']:,} pairs of {runs['first']['queries']:,} queries"
    text = f"{pairs} and {runs['first']['documents']:,} documents.\n\n" + text
    print(text)
    if args.out:
        import torch

        result = {**machine(), "device": torch.cuda.get_device_name(0), "runs": runs}
        (args.out / "gpu_run.json").write_text(json.dumps(result, indent=1) + "\n")
        (args.out / "gpu_run.md").write_text(text)


if __name__ == "__main__":
    main()
