"""What every verb shares: one line per error, exit codes, a clean stop, opening a job."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from nightrank.cli import closing
from nightrank.cli.executors import open_executor
from nightrank.config.redaction import redacted
from nightrank.errors import NightrankError, unexpected
from nightrank.runtime import supervisor

if TYPE_CHECKING:
    from nightrank.flow.offline_rerank import Run
    from nightrank.generations.planning import Plan, Scope
    from nightrank.storage.store import Store

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file of the experiment.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. --set rerank.depth=50."),
]
Json = Annotated[bool, typer.Option("--json", help="End with one JSON line; no progress.")]
Generation = Annotated[
    str | None,
    typer.Option("--generation", metavar="N|DATE", help="An older generation, or that of a day."),
]
Force = Annotated[
    str, typer.Option("--force-publish", metavar="REASON", help="Publish though the gate fails.")
]


def program(app: Callable[..., Any]) -> NoReturn:
    """Runs a typer app as this process's only business, and ends the process."""
    supervisor.begin()
    supervisor.leave(guarded(app))


def guarded(app: Callable[..., Any]) -> int:
    """Calls a typer app and turns every ending into an exit code and at most one line on stderr.

    With `--json` standard output ends with one line too (`closing`).

    Returns:
        0, the code of an expected error, 70 for a bug, 130 after Ctrl-C, 143 after SIGTERM.
    """
    logging.getLogger().setLevel(logging.ERROR)
    closing.begin()
    supervisor.handle_signals()
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        return _stopped()
    except SystemExit as end:
        if supervisor.last_stop() and end.code == supervisor.TYPER_INTERRUPTED:
            return _stopped()
        closing.ended()
        return int(end.code) if isinstance(end.code, int) else int(end.code is not None)
    except NightrankError as error:
        if error.code == "E_BUG":
            return _bug(error)
        print(redacted(f"nightrank: {error}"), file=sys.stderr)
        closing.failed(error)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _bug(error)
    return 0


def _bug(error: BaseException) -> int:
    """One line; the message, which may quote a text, stands in a file of this user alone."""
    with tempfile.NamedTemporaryFile("w", prefix="nightrank-", suffix=".log", delete=False) as file:
        file.write(redacted("".join(traceback.format_exception(error))))
    if not isinstance(error, NightrankError):
        error = NightrankError("E_BUG", unexpected(error))
    line = redacted(f"nightrank: {error}")[:600]
    print(f"{line} - details in {file.name}", file=sys.stderr)
    do = f"details in {file.name}"
    closing.failed(NightrankError("E_BUG", error.what, error.where, do))
    return 70


def _stopped() -> int:
    stop = supervisor.last_stop() or supervisor.Stopped(signal.SIGINT)
    print(f"nightrank: {stop.what}; the same command resumes", file=sys.stderr)
    closing.stopped(stop.exit_code, stop.what, "the same command resumes")
    return stop.exit_code


@contextlib.contextmanager
def open_job(
    config_path: str,
    sets: list[str] | None,
    quiet: bool,
    scope: Scope = "all",
    index_generation: int | None = None,
    verb: str = "run",
    publishes: bool = True,
    force_publish: str = "",
    began: float | None = None,
) -> Iterator[Run]:
    """Loads the config, probes the store, plans, and opens the executor; records events.

    Args:
        config_path: the YAML file.
        sets: overrides, `KEY=VALUE`.
        quiet: whether no progress is shown.
        scope: which halves are run.
        index_generation: as `make_plan`.
        verb: what was asked for.
        publishes: whether results are to be published: refused while a rollback is in force.
        force_publish: why results are published all the same; empty otherwise.
        began: when the schedule of this night did, in seconds since the epoch; by default now.
    """
    from nightrank.config.file import load_config

    config = load_config(config_path, sets or [])
    if config.cluster.executor == "ray":
        supervisor.supervise(config.cluster.existing_address or "a cluster started here")
    from nightrank.process.without_pandas import without_pandas

    without_pandas()  # Before anything else imports it.
    from nightrank.flow.offline_rerank import Run
    from nightrank.generations.planning import make_plan, store_models
    from nightrank.generations.prediction import expected_seconds
    from nightrank.generations.results import open_lake
    from nightrank.generations.rollbacks import refuse_held
    from nightrank.runtime import events
    from nightrank.runtime.budget import Meter
    from nightrank.runtime.deadline import failed_seconds, window_of
    from nightrank.runtime.eta import EtaEstimator
    from nightrank.runtime.progress import Progress

    _refuse_unpickling()
    store = open_lake(config.root, config.name, config.storage_options)
    progress, recorder = Progress(quiet=quiet), events.Events(store)
    with events.recording(recorder):
        try:
            store.probe()
            if publishes and scope != "index" and not force_publish:
                # Before inputs are listed and models copied: the work would end unpublished, and
                # the index would take in what the operator has not looked at yet.
                refuse_held(store)
            plan = make_plan(config, store, scope, index_generation)
            recorder.folder, recorder.plan = plan.own_folder, plan.plan_id
            begun = store.folders(recorder.folder) or store.folders(plan.segment)
            events.emit("run_resumed" if begun else "run_started", verb=verb)
            if not begun:
                _check_room(plan, store)
            for name, files in plan.left_out.items():
                if left_out := files.describe():
                    progress.note(f"{name}: {left_out}")
            plan = store_models(plan, store, progress.note)
            with open_executor(config) as executor:
                meter = Meter(
                    config.budget,
                    executor.gpus,
                    lambda until, now: window_of(store, plan.own_folder, until, began or now),
                    lambda: failed_seconds(store, plan.own_folder, recorder.run, time.time()),
                )
                progress.eta = EtaEstimator(
                    expected_seconds(store, plan.folder, plan.earlier),
                    meter.deadline,
                )
                job = Run(plan, store, executor, progress, meter=meter)
                job.force_publish = force_publish
                yield job
            if job.cut_short:
                events.ended(job.cut_short)
            events.emit("run_finished", seconds=time.monotonic() - job.began)
        except BaseException as error:
            events.ended(supervisor.stop_behind(error))
            if isinstance(error, NightrankError) and error.code == "E_STORE_RETRY":
                recorder.folder = ""  # The store does not answer: it was asked for long enough.
            raise
        finally:
            recorder.close()


def _check_room(plan: Plan, store: Store) -> None:
    """Before anything is written: a forecast knows, else a first run takes what its input does."""
    from nightrank.generations import prediction
    from nightrank.storage import headroom

    if forecast := prediction.kept(store, plan.folder) if plan.folder else None:
        headroom.check(plan.config.root, int(forecast["bytes"]), "its forecast")
    elif plan.base is None:
        # Texts and tokens each compress to about a third; vectors come on top.
        half = sum(file.size for file in plan.corpus_files) // 2
        headroom.check(plan.config.root, half, "half of its input and a fifth more")


def _refuse_unpickling() -> None:
    """Refuses an environment in which Ray Data would unpickle what stands in Parquet files."""
    for name in sorted(os.environ):
        if name.startswith("RAY_DATA_AUTOLOAD_"):
            what = f"{name} is set: Ray would run code that stands in data files"
            raise NightrankError("E_CONFIG", what, "environment", f"unset {name}")
