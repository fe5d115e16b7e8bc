"""How a verb ends: the one line of `--json`, whatever happened, and the command to type next.

A run that succeeds prints its own line. One that is refused, held back, out of its budget or
stopped ends with `code`, `exit_code`, `what`, `where` and `do`: what its line on standard error
says, masked alike, and what belongs to the error (the gate's findings, the rollback in force).
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
    """Of the call in progress.

    Attributes:
        is_asked: whether `--json` was typed.
        is_printed: whether the line is printed already.
        usage: what was wrong with the command line.
    """

    is_asked: bool = False
    is_printed: bool = False
    usage: str = ""


_line = _Line()


def begin() -> None:
    """Forgets the call before."""
    vars(_line).update(vars(_Line()))


class Program(TyperGroup):
    """A group that remembers whether `--json` was typed, and what typer found wrong.

    Typer prints a wrong command line itself and ends the process: its message is taken on the way.
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
    """The line of an error, where one was asked for and the verb has printed none."""
    _end(error.to_dict())


def ended() -> None:
    """The line of a wrong command line, if that is what ended the process."""
    if _line.usage:
        do = "see `nightrank --help` and `nightrank VERB --help`"
        failed(NightrankError("E_USAGE", _line.usage, "command line", do))


def stopped(exit_code: int, what: str, do: str) -> None:
    """The line of a process that a signal ended: its `code` is the signal's name."""
    name = signal.Signals(exit_code - 128).name
    _end({"code": name, "exit_code": exit_code, "what": what, "where": "", "do": do})


def _end(plain: dict[str, Any]) -> None:
    if _line.is_asked and not _line.is_printed:
        with contextlib.suppress(OSError, ValueError):  # Nobody reads it any more.
            print_json(_masked(plain))


def _masked(value: Any) -> Any:
    """Every text of plain data as `redacted` has it."""
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
