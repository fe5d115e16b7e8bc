"""The nightly run: `nightrank nightly CONFIG`, `python -m jobs.nightly CONFIG`.

nightrank nightly my.yaml                    # reindex, rank, evaluate, gate, publish
nightrank nightly my.yaml --force-publish "the catalogue was cut by half on purpose"
"""

from __future__ import annotations

import time

from jobs.run import close, execute
from jobs.terminal import ConfigPath, Force, Json, Sets, command, open_job


def nightly(
    config: ConfigPath, sets: Sets = None, force_publish: Force = "", json: Json = False
) -> None:
    """What changed since last night, ranked; published if it passes the config's gate."""
    started = time.monotonic()
    with open_job(config, sets, quiet=json, verb="nightly") as job:
        job.gate, job.force_publish = True, force_publish
        summary = execute(job)
    close(summary, job, started, config, json)


if __name__ == "__main__":
    command(nightly)
