"""What every verb shares: options, one line per error, exit codes, a clean stop."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from nightrank.cli import closing
from nightrank.config.redaction import redacted
from nightrank.errors import NightrankError, unexpected
from nightrank.runtime import supervisor

if TYPE_CHECKING:
    from nightrank.config.schema import PipelineConfig

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
    str, typer.Option("--force-publish", metavar="REASON", help="Publish although the gate fails.")
]


def program(app: Callable[..., Any]) -> NoReturn:
    """Runs a typer app as this process's only business, and ends the process."""
    supervisor.begin()
    supervisor.leave(guarded(app))


def guarded(app: Callable[..., Any]) -> int:
    """Calls a typer app; every ending becomes an exit code and at most one line on stderr.

    With `--json` standard output ends with one line too (see `closing`).

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
    """One line; the message, which may quote a text, is in a file that only this user can read."""
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


def prepare_run(config_path: str, sets: list[str] | None) -> PipelineConfig:
    """Loads the config; a run on Ray continues in a child process (see `supervisor`).

    Call it before anything that starts a thread is imported.

    Raises:
        NightrankError: E_CONFIG, E_USAGE for the config or an override.
    """
    from nightrank.config.file import load_config

    config = load_config(config_path, sets or [])
    if config.cluster.executor == "ray":
        supervisor.supervise(config.cluster.existing_address or "a cluster started here")
    from nightrank.process.without_pandas import without_pandas

    without_pandas()  # Before anything else imports it.
    return config
