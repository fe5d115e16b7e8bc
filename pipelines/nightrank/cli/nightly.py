"""The nightly run: `nightrank nightly CONFIG`, `python -m nightrank nightly CONFIG`.

nightrank nightly my.yaml                    # reindex, rank, evaluate, gate, publish
nightrank nightly my.yaml --force-publish "the catalogue was cut by half on purpose"
"""

from __future__ import annotations

import datetime
import time
from typing import Annotated

import typer

from nightrank.cli.closing import command
from nightrank.cli.run import close, execute
from nightrank.cli.terminal import ConfigPath, Force, Json, Sets, open_job
from nightrank.errors import NightrankError

Began = Annotated[
    str,
    typer.Option(
        "--began",
        metavar="TIME",
        help="When the schedule began this night, e.g. 2026-01-31T23:30Z: all its tries end at the"
        " first budget.until after it.",
    ),
]


def nightly(
    config: ConfigPath,
    sets: Sets = None,
    force_publish: Force = "",
    began: Began = "",
    json: Json = False,
) -> None:
    """What changed since last night, ranked; published if it passes the config's gate."""
    started, scheduled = time.monotonic(), _instant(began)
    with open_job(
        config, sets, json, verb="nightly", force_publish=force_publish, began=scheduled
    ) as job:
        job.gate = True
        summary = execute(job)
    close(summary, job, started, command("results", config, sets, "--files"), json)


def _instant(began: str) -> float | None:
    """ISO 8601 as seconds since the epoch, without an offset by the local clock; None for ""."""
    if not began:
        return None
    try:
        return datetime.datetime.fromisoformat(began).timestamp()
    except ValueError:
        do = "write an ISO 8601 time, e.g. 2026-01-31T23:30Z"
        raise NightrankError("E_USAGE", f"--began {began!r} is no time", "", do) from None
