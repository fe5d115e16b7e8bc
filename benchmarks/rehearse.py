"""The control plane alone at scale: planning, dispatch, records, a kill half-way, resumption.

    python -m benchmarks.rehearse --work WORK --out benchmarks/results

Units that compute nothing (`benchmarks.rehearsal`) run through `run_stage`, the executor on real
Ray and a lake on the local disk. SIGKILL ends the driver when half of the units have records, and
the same command resumes. Reported are the peak memory of both drivers, seconds, units a second,
objects, and the number of units that were computed twice, which has to be 0.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.arguments import add_out
from benchmarks.memory import Watch, peak_bytes
from benchmarks.rehearsal import Rehearsal
from benchmarks.reporting import let_workers_import, machine, table
from nightrank.config.running import Cluster, Pool
from nightrank.runtime.executor import run_stage
from nightrank.storage.dataset import Manifest
from nightrank.storage.store import Store

# A unit that computes nothing waits for the disk: two workers a core keep the cores busy.
WORKERS = 2 * (os.cpu_count() or 1)
CLUSTER = Cluster(pools={name: Pool(workers=WORKERS) for name in ("general", "model")})


def drive(plan: Rehearsal, lake: Path) -> dict[str, Any]:
    """Runs all stages with this process as the driver; its seconds, units and peak memory."""
    from nightrank.runtime.ray_executor import RayExecutor

    let_workers_import()
    began, watch = time.monotonic(), Watch(lake.parent / "measured.json")
    executor = RayExecutor(CLUSTER)
    started = time.monotonic() - began
    manifests: dict[str, Manifest] = {}
    try:
        for declare in plan.stages():
            stage = declare(manifests)
            manifests[stage.name] = run_stage(stage, Store(str(lake)), executor, watch)
    finally:
        executor.close()
        watch.close()
    return {
        "seconds": time.monotonic() - began,
        "ray_seconds": started,
        "driver_cpu_seconds": time.process_time(),
        "stages": watch.stages,
        "units": watch.units,
        "peak_bytes": peak_bytes(os.getpid()),
    }


def records(lake: Path) -> dict[str, int]:
    """Paths of all records, and their times of creation in nanoseconds."""
    folders = lake.glob("rehearsal/*/_done")
    entries = [entry for folder in folders for entry in os.scandir(folder)]
    return {e.path: e.stat().st_mtime_ns for e in entries if e.name.endswith(".json")}


def count(lake: Path, folder: str) -> int:
    """Number of files in the folders of this name of all datasets."""
    return sum(len(os.listdir(path)) for path in lake.glob(f"rehearsal/*/{folder}"))


def rehearse(plan: Rehearsal, work: Path) -> dict[str, Any]:
    """Starts a run, kills it half-way and resumes it.

    Returns:
        `killed` and `resumed` (seconds, units, peak memory), `records`, `data_files`, `orphans`
        (data files without a record), `repeated` (records that were written twice).
    """
    work.mkdir(parents=True, exist_ok=True)
    lake = work / "lake"
    if lake.exists():
        raise SystemExit(f"{lake} exists, but the rehearsal needs an empty lake: remove {work}")
    command = [sys.executable, "-m", "benchmarks.rehearse", "--drive", "--work", str(work)]
    command += [f"--{name}={value}" for name, value in vars(plan).items()]
    began = time.monotonic()
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while count(lake, "_done") < plan.units // 2:
        if first.poll() is not None:
            raise SystemExit(
                f"the run ended before it was killed, with exit code {first.returncode}"
            )
        time.sleep(0.2)
    killed = {"seconds": time.monotonic() - began, "peak_bytes": peak_bytes(first.pid)}
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    time.sleep(2)  # Workers outlive their driver for a moment, and what they commit counts.
    before = records(lake)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    after = records(lake)
    resumed = json.loads(done.stdout)
    manifests = len(list(lake.glob("rehearsal/*/manifest.json")))
    named = sum(len(json.loads(Path(path).read_bytes())["files"]) for path in after)
    data = count(lake, "_data")
    return {
        "documents": plan.documents,
        "queries": plan.queries,
        "units": plan.units,
        "killed": {**killed, "units": len(before)},
        "resumed": {**resumed, "units": sum(resumed["units"].values())},
        "records": len(after),
        "manifests": manifests,
        "data_files": data,
        "orphans": data - named,
        "repeated": sum(after.get(path) != created for path, created in before.items()),
    }


def as_markdown(result: dict[str, Any]) -> str:
    lines = []
    for name in ("killed", "resumed"):
        run = result[name]
        lines.append(
            [
                name,
                f"{run['units']:,}",
                f"{run['seconds']:.0f} s",
                f"{run['units'] / run['seconds']:,.0f}",
                f"{run['peak_bytes'] / 1e6:,.0f} MB",
            ]
        )
    text = f"{result['documents']:,} document shards x {result['queries']:,} query shards, "
    text += f"{result['units']:,} units on {result['cpus']} CPUs\n\n"
    text += table(["run", "units", "seconds", "units/s", "driver's peak memory"], lines)
    stages = [
        [
            name,
            f"{stage['seconds']:.0f} s",
            f"{stage['cpu_seconds']:.0f} s",
            f"{stage['driver']['own'] / 1e6:,.0f} MB",
            f"{stage['worker']['own'] / 1e6:,.0f} MB",
        ]
        for name, stage in result["resumed"]["stages"].items()
    ]
    titles = ["stage", "wall, both runs", "CPU of all processes", "driver", "largest worker"]
    text += "\n" + table(titles, stages)
    text += f"\nObjects: {result['data_files']:,} data files, {result['records']:,} records, "
    text += (
        f"{result['manifests']} manifests. Computed twice: {result['repeated']} units; data files "
    )
    text += f"without a record: {result['orphans']}.\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    add_out(parser)
    parser.add_argument("--documents", type=int, default=640, help="document shards")
    parser.add_argument("--queries", type=int, default=100, help="query shards")
    parser.add_argument("--slices", type=int, default=50, help="rerank units a document shard")
    parser.add_argument("--drive", action="store_true", help="one run in this process, no kill")
    args = parser.parse_args()
    plan = Rehearsal(args.documents, args.queries, args.slices)
    if args.drive:
        print(json.dumps(drive(plan, args.work / "lake")))
        return
    result = {**machine(), **rehearse(plan, args.work)}
    print(as_markdown(result))
    if args.out:
        (args.out / "rehearse.json").write_text(json.dumps(result, indent=1) + "\n")
        (args.out / "rehearse.md").write_text(as_markdown(result))
    shutil.rmtree(args.work)


if __name__ == "__main__":
    main()
