"""What every verb shares: one line per error, exit codes, a clean stop, opening a job."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from nightrank.cli import closing, supervision
from nightrank.cli.executors import open_executor
from nightrank.config.redaction import redacted
from nightrank.errors import NightrankError, unexpected

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


class Stopped(KeyboardInterrupt):
    """A signal came.

    A KeyboardInterrupt, for no other kind ends Ray's own waiting: of a BaseException it made a
    SystemError in 8 of 23 runs that were stopped once Ray was up. Ray and typer put an exception of
    their own in its place, so the last one is kept.
    """

    def __init__(self, signum: int) -> None:
        meant = {handed: number for number, handed in supervision.HANDED_ON.items()}
        self.signum = signum
        self.exit_code = 128 + meant.get(signal.Signals(signum), signum)


TYPERS_STOP = 130  # As what typer ends after a KeyboardInterrupt.
_came: list[Stopped] = []


def program(app: Callable[..., Any]) -> NoReturn:
    """Runs a typer app as this process's only business, and ends the process."""
    supervision.allow()
    sys.unraisablehook = redeliver_signal
    leave(guarded(app))


def leave(code: int) -> NoReturn:
    """Ends the process.

    After a signal without C++'s own end: it can come between the start of a thread and whoever is
    to join it, and such a thread's destructor aborts (3 of 60 runs ended with 134 for 143).
    """
    if code > 128:
        for number in supervision.SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def guarded(app: Callable[..., Any]) -> int:
    """Calls a typer app and turns every ending into an exit code and at most one line on stderr.

    With `--json` standard output ends with one line too (`closing`).

    Returns:
        0, the code of an expected error, 70 for a bug, 130 after Ctrl-C, 143 after SIGTERM.
    """
    logging.getLogger().setLevel(logging.ERROR)
    closing.begin()
    with contextlib.suppress(ValueError):  # Not in the main thread (tests): leave signals alone.
        for number in supervision.SIGNALS:
            signal.signal(number, _stop)
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        return _stopped()
    except SystemExit as end:
        if _came and end.code == TYPERS_STOP:
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


def _stop(signum: int, frame: FrameType | None) -> None:
    _came.append(Stopped(signum))
    raise _came[-1]


def _stopped() -> int:
    print("nightrank: stopped; the same command resumes", file=sys.stderr)
    code = _came[-1].exit_code if _came else TYPERS_STOP
    closing.stopped(code, "stopped", "the same command resumes")
    return code


def redeliver_signal(told: sys.UnraisableHookArgs) -> None:
    """A stop that came where Python hands nothing on (a finalizer, a hook of a fork) comes again.

    Ray forks some ten processes as it starts, and each runs the hooks of `os.register_at_fork`.
    """
    if isinstance(told.exc_value, Stopped):
        again = threading.Timer(0.05, os.kill, (os.getpid(), told.exc_value.signum))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(told)


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
        supervision.supervise(config.cluster.standing or "a cluster started here")
    from nightrank.process.without_pandas import without_pandas

    without_pandas()  # Before anything else imports it.
    from nightrank.flow.offline_rerank import Run
    from nightrank.generations.planning import make_plan, store_models
    from nightrank.generations.prediction import expected_seconds
    from nightrank.generations.results import open_lake
    from nightrank.generations.rollbacks import refuse_held
    from nightrank.runtime import events, night
    from nightrank.runtime.budget import Meter
    from nightrank.runtime.outlook import Outlook
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
                    lambda until, now: night.night_of(store, plan.own_folder, until, began or now),
                    lambda: night.spent_before(store, plan.own_folder, recorder.run, time.time()),
                )
                progress.outlook = Outlook(
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
            stop = _came and isinstance(error, KeyboardInterrupt)
            events.ended(_came[-1] if stop else error)
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
