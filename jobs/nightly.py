"""The nightly run: `nightrank nightly CONFIG`, `python -m jobs.nightly CONFIG`.

nightrank nightly my.yaml                    # reindex, rank, evaluate, gate, publish
nightrank nightly my.yaml --force-publish "the catalogue was cut by half on purpose"
"""

from __future__ import annotations

import time

import orjson

from jobs.run import execute, tell
from jobs.terminal import ConfigPath, Force, Json, Sets, command, open_job


def nightly(
    config: ConfigPath, sets: Sets = None, force_publish: Force = "", json: Json = False
) -> None:
    """What changed since last night, ranked; published if it passes the config's gate."""
    started = time.monotonic()
    with open_job(config, sets, quiet=json) as job:
        job.gate, job.force_publish = True, force_publish
        summary = execute(job)
    summary["seconds"] |= {"total": round(time.monotonic() - started, 2)}
    if json:
        print(orjson.dumps(summary).decode())
    else:
        tell(summary, config)
        if force_publish and summary["gate"] and not summary["gate"]["passed"]:
            print(f"published against the gate: {force_publish}")
    if job.cut_short:
        raise job.cut_short


if __name__ == "__main__":
    command(nightly)
