"""Runs the pipeline: `nightrank run CONFIG`, `python -m nightrank run CONFIG`.

nightrank run configs/nightly.yaml
nightrank run my.yaml --set rerank.depth=50 --set cluster.executor=serial
nightrank run my.yaml --to merge          # retrieve only, publish nothing
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nightrank.cli.closing import command, print_json
from nightrank.cli.terminal import ConfigPath, Json, Sets, prepare_run

if TYPE_CHECKING:
    from nightrank.api.result import Result

First = Annotated[
    str | None,
    typer.Option("--from", metavar="STAGE", help="Refuse to run unless all before it is done."),
]
Last = Annotated[str | None, typer.Option("--to", metavar="STAGE", help="Stop after this stage.")]


def run(
    config: ConfigPath,
    sets: Sets = None,
    first: First = None,
    last: Last = None,
    json: Json = False,
) -> None:
    """Corpus + queries -> ranked Parquet; the same command resumes, or does nothing if done."""
    loaded = prepare_run(config, sets)
    from nightrank.api import runs

    result = runs.run(loaded, first=first, last=last, progress=not json)
    print_result(result, command("results", config, sets, "--files"), json)


def print_result(result: Result, then: str, json: bool) -> None:
    """Prints the closing lines, or the JSON line.

    Args:
        result: of the run.
        then: the command that shows what is published.
        json: whether one line is asked for.

    Raises:
        NightrankError: E_BUDGET if the budget ended the run after it published a part.
    """
    if json:
        print_json({**result.to_dict(), **(result.cut_short.to_dict() if result.cut_short else {})})
    else:
        print(result)
        if result.generation is not None:
            print(f"read them: {then}")
    if result.cut_short:
        raise result.cut_short
