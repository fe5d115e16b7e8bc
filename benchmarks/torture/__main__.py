"""Random kills, simulated incremental runs and fuzzing for a given time.

    python -m benchmarks.torture --minutes 30 --out benchmarks/results [--seed N]

Half of the time goes to driver processes that are killed at random instants and run again, a
quarter each to simulated incremental runs and to fuzzing of inputs and artifacts. The exit code is
1 if anything differed; the result file lists the differences and the seed.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.arguments import add_out
from benchmarks.reporting import machine, table
from benchmarks.torture import fuzz, kills, soak

MEMORY = Path("/dev/shm")
PARTS = ("kills", "soak", "fuzz")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    add_out(parser, required=True)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31))
    args = parser.parse_args()
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 2 << 30
    started = time.monotonic()
    result: dict[str, Any] = {**machine(), "minutes": args.minutes, "seed": args.seed}
    with tempfile.TemporaryDirectory(dir=MEMORY if roomy else None) as folder:
        quarter = args.minutes * 15
        result["kills"] = kills.run(2 * quarter, args.seed, Path(folder) / "kills")
        print(json.dumps(result["kills"]), flush=True)
        result["soak"] = soak.run(quarter, args.seed, Path(folder) / "soak")
        print(json.dumps(result["soak"]), flush=True)
    result["fuzz"] = fuzz.run(quarter, args.seed)
    print(json.dumps(result["fuzz"]), flush=True)
    result["seconds"] = round(time.monotonic() - started)
    (args.out / "torture.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / "torture.md").write_text(as_markdown(result))
    if any(result[part].get("wrong") or result[part].get("failures") for part in PARTS):
        sys.exit(1)


def as_markdown(result: dict[str, Any]) -> str:
    """One table for each part, one figure a line."""
    text = f"{result['seconds']} s on {result['cpus']} CPUs, seed {result['seed']}\n"
    for part in PARTS:
        lines = []
        for name, value in result[part].items():
            inner = value.items() if isinstance(value, dict) else [("", value)]
            lines += [[f"{name} {key}".strip().replace("_", " "), _shown(v)] for key, v in inner]
        text += f"\n{table([part, ''], lines)}"
    return text


def _shown(value: Any) -> str:
    return "; ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


if __name__ == "__main__":
    main()
