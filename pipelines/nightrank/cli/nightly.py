"""The incremental run: `nightrank nightly CONFIG`, `python -m nightrank nightly CONFIG`.

nightrank nightly my.yaml                    # reindex, rank, evaluate, gate, publish
nightrank nightly my.yaml --dry-run          # what that would do and cost; nothing is written
nightrank nightly my.yaml --force-publish "the catalogue was cut by half on purpose"
"""

from __future__ import annotations

from typing import Annotated

import typer

from nightrank.api.pricing import SAMPLE_ROWS, Prices
from nightrank.cli.closing import command
from nightrank.cli.plan import (
    CpuHour,
    Get1000,
    GpuHour,
    NodeMemory,
    OnDevice,
    Put1000,
    SampleRows,
    print_forecast,
)
from nightrank.cli.run import print_result
from nightrank.cli.terminal import ConfigPath, Force, Json, Sets, prepare_run

Began = Annotated[
    str,
    typer.Option(
        "--began",
        metavar="TIME",
        help="When the schedule started this run, e.g. 2026-01-31T23:30Z: all retries end at the"
        " first budget.until after it.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print what changed and what that costs; write nothing."),
]


def nightly(
    config: ConfigPath,
    sets: Sets = None,
    force_publish: Force = "",
    began: Began = "",
    dry_run: DryRun = False,
    device: OnDevice = None,
    sample: SampleRows = SAMPLE_ROWS,
    node_memory: NodeMemory = None,
    cpu_hour: CpuHour = None,
    gpu_hour: GpuHour = None,
    put_1000: Put1000 = None,
    get_1000: Get1000 = None,
    json: Json = False,
) -> None:
    """Ranks what changed since the last run; publishes it if it passes the config's gate."""
    if dry_run:
        from nightrank.api import forecasts

        forecast = forecasts.dry_run(
            config,
            sets or [],
            device=device,
            sample_rows=sample,
            node_memory_gib=node_memory,
            prices=Prices(cpu_hour, gpu_hour, put_1000, get_1000),
        )
        print_forecast(forecast, json)
        return
    loaded = prepare_run(config, sets)
    from nightrank.api import runs

    result = runs.nightly(
        loaded, force_publish=force_publish, began=runs.instant(began), progress=not json
    )
    print_result(result, command("results", config, sets, "--files"), json)
