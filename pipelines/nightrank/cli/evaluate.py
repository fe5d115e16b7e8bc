"""Measures what is published: `nightrank evaluate CONFIG`.

Reads the full depth of the current generation, not only what `results.keep` published.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nightrank.cli.closing import print_json
from nightrank.cli.paths import check_writable, local_path, replace_file
from nightrank.cli.terminal import ConfigPath, Generation, Json, Sets

ReportFile = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="HTML report to write.")
]


def evaluate(
    config: ConfigPath,
    sets: Sets = None,
    generation: Generation = None,
    report: ReportFile = None,
    json: Json = False,
) -> None:
    """First stage, reranked and ceiling of every measure; what moved; by vertical."""
    from nightrank.api import evaluation

    target = local_path(report) if report else None
    if target:
        check_writable(target)
    measured = evaluation.evaluate(config, sets or [], generation=generation)
    if target:
        replace_file(target, measured.html())
    if json:
        print_json(measured.to_dict())
        return
    print(measured)
    print(f"report: {target or measured.report}")
