"""How a verb ends: the JSON line of `--json`, and the command to type next.

A verb that succeeds prints its own line. One that is refused, held back, out of its budget or
stopped ends with `code`, `exit_code`, `what`, `where` and `do`, as its line on standard error has
them, with secrets masked, and the error's details (the gate's findings, the rollback in force).
"""

from __future__ import annotations

import contextlib
import shlex
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from typer.core import TyperGroup

from nightrank.config.redaction import redacted
from nightrank.errors import NightrankError


@dataclass
class _Line:
    """The JSON line of the call in progress.

    Attributes:
        is_asked: whether `--json` was typed.
        is_printed: whether the line was printed.
        usage: what is wrong with the command line; else empty.
    """

    is_asked: bool = False
    is_printed: bool = False
    usage: str = ""


_line = _Line()


def begin() -> None:
    """Starts a call; the state of an earlier one is dropped."""
    vars(_line).update(vars(_Line()))


class Program(TyperGroup):
    """A group that records whether `--json` was typed, and typer's message about wrong usage.

    Typer prints that message itself and ends the process, so it is recorded before.
    """

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """See `click.Command.make_context`."""
        own = args[: args.index("--")] if "--" in args else args
        _line.is_asked = "--json" in own
        with _usage():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        """See `click.Command.invoke`."""
        with _usage():
            return super().invoke(ctx)


@contextlib.contextmanager
def _usage() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message"):  # Typer's copy of click has no public name for it.
            _line.usage = error.format_message()
        raise


def print_json(plain: Any) -> None:
    """Prints the one line that `--json` ends with."""
    print(orjson.dumps(plain).decode(), flush=True)
    _line.is_printed = True


def failed(error: NightrankError) -> None:
    """Prints the line of an error, if one was asked for and the verb has printed none."""
    _end(error.to_dict())


def ended() -> None:
    """Prints the line of a wrong command line, if that ended the process."""
    if _line.usage:
        do = "see `nightrank --help` and `nightrank VERB --help`"
        failed(NightrankError("E_USAGE", _line.usage, "command line", do))


def stopped(exit_code: int, what: str, do: str) -> None:
    """Prints the line of a process that a signal ended; its `code` is the signal's name."""
    name = signal.Signals(exit_code - 128).name
    _end({"code": name, "exit_code": exit_code, "what": what, "where": "", "do": do})


def _end(plain: dict[str, Any]) -> None:
    if _line.is_asked and not _line.is_printed:
        with contextlib.suppress(OSError, ValueError):  # The reader has closed the pipe.
            print_json(_masked(plain))


def _masked(value: Any) -> Any:
    """Plain data with secrets masked in every text; see `redacted`."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {name: _masked(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(part) for part in value]
    return value


def command(verb: str, config: str, sets: list[str] | None, *more: str) -> str:
    """A command to type, with the same config and overrides, quoted for a shell."""
    overrides = [part for one in sets or [] for part in ("--set", one)]
    return shlex.join(["nightrank", verb, config, *more, *overrides])
