"""The query half alone: `nightrank rank CONFIG`, with an index that is published.

nightrank rank my.yaml                          # the current index generation
nightrank rank my.yaml --index-generation 12
"""

from __future__ import annotations

from typing import Annotated

import typer

from nightrank.cli.closing import command
from nightrank.cli.run import print_result
from nightrank.cli.terminal import ConfigPath, Json, Sets, prepare_run

Index = Annotated[
    int | None,
    typer.Option("--index-generation", metavar="N", help="An older index; by default the current."),
]


def rank(
    config: ConfigPath, sets: Sets = None, index_generation: Index = None, json: Json = False
) -> None:
    """Ranks the queries with a published index; the corpus is not read."""
    loaded = prepare_run(config, sets)
    from nightrank.api import runs

    result = runs.rank(loaded, index_generation=index_generation, progress=not json)
    print_result(result, command("results", config, sets, "--files"), json)
