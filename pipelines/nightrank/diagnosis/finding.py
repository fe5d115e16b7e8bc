"""One line of a diagnosis, and how a check that fails becomes one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from nightrank.errors import NightrankError

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: what was looked at, a word or two.
        state: `ok`; `warn` where a run may suffer; `fail` where it would not get through.
        found: what there is.
        do: what the operator does next; empty where nothing is to be done.
    """

    check: str
    state: State
    found: str
    do: str = ""


def examine(check: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of a check; one that raises has failed, in one line and without a secret."""
    try:
        yield from look()
    except NightrankError as error:
        where = f" ({error.where})" if error.where else ""
        yield Finding(check, "fail", f"{error.code}: {error.what}{where}", error.do)
    except Exception as error:
        # Other libraries' messages may be long, or repeat what they were given.
        do = "see what the library of that name says of it"
        yield Finding(check, "fail", f"{type(error).__module__}.{type(error).__name__}", do)
