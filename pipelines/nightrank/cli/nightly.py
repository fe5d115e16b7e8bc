"""The nightly run: `nightrank nightly CONFIG`, `python -m nightrank nightly CONFIG`.

nightrank nightly my.yaml                    # reindex, rank, evaluate, gate, publish
nightrank nightly my.yaml --force-publish "the catalogue was cut by half on purpose"
"""

from __future__ import annotations

import time

from nightrank.cli.run import close, execute
from nightrank.cli.terminal import ConfigPath, Force, Json, Sets, open_job


def nightly(
    config: ConfigPath, sets: Sets = None, force_publish: Force = "", json: Json = False
) -> None:
    """What changed since last night, ranked; published if it passes the config's gate."""
    started = time.monotonic()
    with open_job(config, sets, json, verb="nightly", force_publish=force_publish) as job:
        job.gate = True
        summary = execute(job)
    close(summary, job, started, config, json)
