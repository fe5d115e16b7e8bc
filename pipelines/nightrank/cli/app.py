"""The `nightrank` program: one verb per file of this folder."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

from nightrank.cli import (
    doctor,
    evaluate,
    export,
    export_model,
    exporter,
    gc,
    history,
    init,
    nightly,
    plan,
    quickstart,
    rank,
    reindex,
    results,
    resume,
    rollback,
    run,
    show,
    status,
    submit,
    train_reranker,
    verify,
)
from nightrank.cli.closing import Program
from nightrank.cli.terminal import program
from nightrank.process.home import ensure_home
from nightrank.process.search_path import leave_out_working_directory

app = typer.Typer(
    cls=Program,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Offline retrieve-then-rerank on Ray: a corpus and queries in, ranked Parquet out.",
)


def _print_version(asked: bool) -> None:
    if asked:
        try:
            print(f"nightrank {importlib.metadata.version('nightrank')}")
        except importlib.metadata.PackageNotFoundError:
            print("nightrank, unknown version: not installed as a package")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            callback=_print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """Options that come before the verb."""


app.command("init")(init.init)
app.command("doctor")(doctor.doctor)
app.command("plan")(plan.plan)
app.command("run")(run.run)
app.command("nightly")(nightly.nightly)
app.command("reindex")(reindex.reindex)
app.command("rank")(rank.rank)
app.command("submit")(submit.submit)
app.command("status")(status.status)
app.command("history")(history.history)
app.command("rollback")(rollback.rollback)
app.command("resume")(resume.resume)
app.command("gc")(gc.gc)
app.command("verify")(verify.verify)
app.command("results")(results.results)
app.command("show")(show.show)
app.command("export")(export.export)
app.command("export-model")(export_model.export_model)
app.command("exporter")(exporter.exporter)
app.command("evaluate")(evaluate.evaluate)
app.command("train-reranker")(train_reranker.train_reranker)
app.command("quickstart")(quickstart.quickstart)


def main() -> None:
    """Runs the program; see `nightrank.__main__`."""
    leave_out_working_directory()
    ensure_home()
    program(app)
