"""The query half alone: `nightrank rank CONFIG`, against an index that stands.

nightrank rank my.yaml                          # the current index generation
nightrank rank my.yaml --index-generation 12
"""

from __future__ import annotations

import time
from typing import Annotated

import typer

from nightrank.cli.closing import command
from nightrank.cli.run import close, execute
from nightrank.cli.terminal import ConfigPath, Json, Sets, open_job

Index = Annotated[
    int | None, typer.Option("--index-generation", metavar="N", help="Not the current one.")
]


def rank(
    config: ConfigPath, sets: Sets = None, index_generation: Index = None, json: Json = False
) -> None:
    """Ranks the queries against a published index; the corpus is not read."""
    started = time.monotonic()
    with open_job(config, sets, json, "results", index_generation, "rank") as job:
        summary = execute(job)
    close(summary, job, started, command("results", config, sets, "--files"), json)
