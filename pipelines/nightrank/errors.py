"""Every error a user can meet, with its exit code.

One class, many codes: a caller that wants to tell them apart looks at `code`. The text has three
parts (what is wrong, where, what to do next) and is printed on one line::

    nightrank: error[E_SCHEMA]: column 'text' not found (corpus.jsonl, row 0) - set corpus.columns

Exit codes: 2 usage or config, 3 unfit environment, 4 refused input, 5 fenced, 6 rival, 7 integrity,
8 resources, 9 transient (the same command resumes), 10 out of budget (the same command continues),
11 held back by the gate or a rollback, 70 bug, 130 SIGINT, 143 SIGTERM.
"""

from __future__ import annotations

import os
import traceback
from typing import Any

EXIT_CODES = {
    "E_USAGE": 2,
    "E_CONFIG": 2,
    "E_UNFIT": 3,
    "E_STORE_UNFIT": 3,
    "E_AUTH": 3,
    "E_MODEL": 3,
    "E_HEADROOM": 3,
    "E_SCHEMA": 4,
    "E_EMPTY": 4,
    "E_REJECT_BUDGET": 4,
    "E_INPUT_CHANGED": 4,
    "E_STALE": 5,
    "E_CONDEMNED": 5,
    "E_CONFLICT": 6,
    "E_CORRUPT": 7,
    "E_ACCOUNTING": 7,
    "E_DISK": 8,
    "E_OOM": 8,
    "E_STORE_RETRY": 9,
    "E_CLUSTER": 9,
    "E_DEADLINE": 9,
    "E_BUDGET": 10,
    "E_GATE": 11,
    "E_BUG": 70,
}
# A line that repeats a path of 4,096 bytes helps nobody.
LONGEST_PART = 600


class NightrankError(Exception):
    """An expected failure, told in one line.

    Args:
        code: a key of `EXIT_CODES`.
        what: what was expected and what was found.
        where: file, row, stage, shard or config key; may be empty.
        do: what the user does next; may be empty.
        details: plain data for machines, which `--json` prints beside the rest.
    """

    def __init__(
        self,
        code: str,
        what: str,
        where: str = "",
        do: str = "",
        details: dict[str, Any] | None = None,
    ) -> None:
        if code not in EXIT_CODES:
            raise ValueError(f"unknown error code {code!r}; known: {sorted(EXIT_CODES)}")
        self.code, self.what, self.where, self.do = code, what, where, do
        self.details = details or {}
        super().__init__(str(self))

    def __str__(self) -> str:
        """One line, without the program's name."""
        text = f"error[{self.code}]: {_shortened(self.what)}"
        if self.where:
            text += f" ({_shortened(self.where)})"
        if self.do:
            text += f" - {self.do}"
        return " ".join(text.split())

    def __reduce__(self) -> tuple[type, tuple[str, str, str, str, dict[str, Any]]]:
        """Pickles by its parts, so that an error crosses processes whole."""
        return (type(self), (self.code, self.what, self.where, self.do, self.details))

    def to_dict(self) -> dict[str, Any]:
        """`code`, `exit_code`, `what`, `where` and `do`, then the details: plain data."""
        parts = {"what": self.what, "where": self.where}
        clean = {name: " ".join(_shortened(text).split()) for name, text in parts.items()}
        return {
            "code": self.code,
            "exit_code": self.exit_code,
            **clean,
            "do": self.do,
            **self.details,
        }

    @property
    def exit_code(self) -> int:
        """The process exit code for this error."""
        return EXIT_CODES[self.code]


class UnfitProcessError(NightrankError):
    """A failure after which its process is good for nothing, such as that of a GPU."""


def _shortened(text: str) -> str:
    """A text without the middle of a long one, and with escape sequences spelt out."""
    text = "".join(c if c.isprintable() or c.isspace() else ascii(c)[1:-1] for c in text)
    half = LONGEST_PART // 2
    return text if len(text) <= LONGEST_PART else f"{text[:half]} ... {text[-half:]}"


def unexpected(error: BaseException) -> str:
    """The kind of an error that nobody expected, and where it was raised; not its message."""
    frames = traceback.extract_tb(error.__traceback__)
    at = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + at


def is_utf8(name: str) -> bool:
    """Whether a name that the operating system gave is text: else it holds lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    r"""A name as a message gives it: bytes that are no UTF-8 as `\xe9`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
