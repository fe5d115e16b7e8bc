"""One line of a diagnosis, and the conversion of a failing check into one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from nightrank.errors import NightrankError

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: what was checked, one or two words.
        state: `ok`; `warn` where a run may suffer; `fail` where it would fail.
        found: what was found.
        do: what the operator does next; may be empty.
    """

    check: str
    state: State
    found: str
    do: str = ""


def examine(check: str, run_check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of a check; an error is a failed check, in one line and without secrets."""
    try:
        yield from run_check()
    except NightrankError as error:
        where = f" ({error.where})" if error.where else ""
        yield Finding(check, "fail", f"{error.code}: {error.what}{where}", error.do)
    except Exception as error:
        # Messages of other libraries may be long, or repeat their arguments.
        do = "look this error up in the documentation of that library"
        yield Finding(check, "fail", f"{type(error).__module__}.{type(error).__name__}", do)
