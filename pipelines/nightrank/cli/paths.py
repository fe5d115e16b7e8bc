"""Paths on the command line, with `~` expanded: not every shell does that after `--option=`."""

from __future__ import annotations

from pathlib import Path

from nightrank.config_running import at_home
from nightrank.errors import NightrankError


def any_path(text: str) -> str:
    """A local path or s3:// url.

    Raises:
        NightrankError: E_USAGE for the home folder of an unknown user.
    """
    try:
        return at_home(text)
    except ValueError as error:
        raise NightrankError("E_USAGE", str(error), text, "correct the path") from None


def local_path(path: Path) -> Path:
    """A local path; see `any_path`."""
    return Path(any_path(str(path)))
