"""Writes a model as a folder for sentence-transformers: `nightrank export-model MODEL DIR`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nightrank.cli.paths import any_path, local_path

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="builtin:reranker, builtin:minilm, or a folder of train-reranker."
    ),
]
Target = Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")]


def export_model(model: Model, target: Target) -> None:
    """Writes a model as a Hugging Face folder, and prints how to load it."""
    from nightrank.training.exporting import export_model

    print(export_model(any_path(model), local_path(target)), end="")
