"""The nightly run: `nightrank nightly CONFIG`, `python -m nightrank nightly CONFIG`.

nightrank nightly my.yaml                    # reindex, rank, evaluate, gate, publish
nightrank nightly my.yaml --dry-run          # what that would do and cost; nothing is written
nightrank nightly my.yaml --force-publish "the catalogue was cut by half on purpose"
"""

from __future__ import annotations

import datetime
import time
from typing import Annotated

import typer

from nightrank.cli.closing import command
from nightrank.cli.plan import (
    CpuHour,
    Get1000,
    GpuHour,
    NodeMemory,
    OnDevice,
    Put1000,
    SampleRows,
    usd,
)
from nightrank.cli.run import close, execute
from nightrank.cli.terminal import ConfigPath, Force, Json, Sets, open_job
from nightrank.errors import NightrankError

Began = Annotated[
    str,
    typer.Option(
        "--began",
        metavar="TIME",
        help="When the schedule started this night, e.g. 2026-01-31T23:30Z: all tries end at the"
        " first budget.until after it.",
    ),
]

DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Say what changed and what that costs; write nothing."),
]


def nightly(
    config: ConfigPath,
    sets: Sets = None,
    force_publish: Force = "",
    began: Began = "",
    dry_run: DryRun = False,
    device: OnDevice = None,
    sample: SampleRows = 2000,
    node_memory: NodeMemory = None,
    cpu_hour: CpuHour = None,
    gpu_hour: GpuHour = None,
    put_1000: Put1000 = None,
    get_1000: Get1000 = None,
    json: Json = False,
) -> None:
    """What changed since last night, ranked; published if it passes the config's gate."""
    if dry_run:
        from nightrank.cli.dry_run import Pricing
        from nightrank.cli.dry_run import dry_run as print_dry_run

        prices = usd(cpu_hour, gpu_hour, put_1000, get_1000)
        print_dry_run(config, sets, Pricing(prices, device, sample, node_memory), json)
        return
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
        raise NightrankError("E_USAGE", f"--began {began!r} is not a time", "", do) from None
