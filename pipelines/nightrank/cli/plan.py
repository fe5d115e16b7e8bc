"""What the next run will take, before anything is spent: `nightrank plan CONFIG`.

nightrank plan my.yaml                                   # the next run, on this machine
nightrank plan my.yaml --from-scratch                    # as if the lake were empty
nightrank plan my.yaml --device H100 --gpu-hour 2.5      # on a GPU that is not here
nightrank plan my.yaml --documents 100000000 --queries 10000000   # the same kind of texts, more
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nightrank.api.pricing import CHANGE, SAMPLE_ROWS, Prices
from nightrank.cli.closing import print_json
from nightrank.cli.terminal import ConfigPath, Json, Sets

if TYPE_CHECKING:
    from nightrank.api.forecast import Forecast

Documents = Annotated[
    int | None, typer.Option("--documents", metavar="N", min=1, help="As if there were this many.")
]
AskedQueries = Annotated[
    int | None, typer.Option("--queries", metavar="M", min=1, help="As if there were this many.")
]
OnDevice = Annotated[
    str | None,
    typer.Option("--device", metavar="GPU", help="A10G, L4, L40S, A100, H100 or H200, by a table."),
]
SampleRows = Annotated[
    int, typer.Option("--sample", metavar="ROWS", min=10, help="Rows of each input to sample.")
]
NodeMemory = Annotated[
    float | None, typer.Option("--node-memory", metavar="GIB", min=0.1, help="Of one node.")
]
Change = Annotated[
    float,
    typer.Option(
        "--change",
        min=0.0,
        max=1.0,
        help="Share of the documents that an incremental run replaces.",
    ),
]
FromScratch = Annotated[bool, typer.Option("--from-scratch", help="As if the lake were empty.")]
CpuHour = Annotated[float | None, typer.Option("--cpu-hour", min=0.0, help="USD a CPU-hour.")]
GpuHour = Annotated[float | None, typer.Option("--gpu-hour", min=0.0, help="USD a GPU-hour.")]
Put1000 = Annotated[float | None, typer.Option("--put-1000", min=0.0, help="USD a 1,000 PUTs.")]
Get1000 = Annotated[float | None, typer.Option("--get-1000", min=0.0, help="USD a 1,000 GETs.")]


def plan(
    config: ConfigPath,
    sets: Sets = None,
    documents: Documents = None,
    queries: AskedQueries = None,
    device: OnDevice = None,
    sample: SampleRows = SAMPLE_ROWS,
    node_memory: NodeMemory = None,
    change: Change = CHANGE,
    from_scratch: FromScratch = False,
    cpu_hour: CpuHour = None,
    gpu_hour: GpuHour = None,
    put_1000: Put1000 = None,
    get_1000: Get1000 = None,
    json: Json = False,
) -> None:
    """Counts, bytes, memory, time, requests and money of the next run, from a sample of the input.

    On a lake with earlier work this is the work that is left.
    """
    from nightrank.api import forecasts

    forecast = forecasts.plan(
        config,
        sets or [],
        documents=documents,
        queries=queries,
        device=device,
        sample_rows=sample,
        node_memory_gib=node_memory,
        change=change,
        from_scratch=from_scratch,
        prices=Prices(cpu_hour, gpu_hour, put_1000, get_1000),
    )
    print_forecast(forecast, json)


def print_forecast(forecast: Forecast, json: bool) -> None:
    """Prints the table, or the JSON line."""
    if json:
        print_json(forecast.to_dict())
    else:
        print(forecast)
