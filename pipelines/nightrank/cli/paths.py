"""Paths on the command line, with `~` expanded: not every shell does that after `--option=`."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from nightrank.errors import NightrankError
from nightrank.process.home import at_home


def any_path(text: str) -> str:
    """A local path or s3:// url.

    Raises:
        NightrankError: E_USAGE for nothing at all, or the home folder of an unknown user.
    """
    if not text:  # An unset variable of a script, which would name the working directory.
        raise NightrankError("E_USAGE", "the path is empty", "", "give a path")
    try:
        return at_home(text)
    except ValueError as error:
        raise NightrankError("E_USAGE", str(error), text, "correct the path") from None


def local_path(path: Path) -> Path:
    """A local path; see `any_path`."""
    return Path(any_path(str(path)))


def check_writable(target: Path) -> None:
    """Refuses a file that cannot be written, before the work that fills it.

    Raises:
        NightrankError: E_USAGE for a folder, a folder that is missing, or one without permission.
    """
    folder = target.parent
    if target.is_dir():
        raise NightrankError(
            "E_USAGE", "expected a file, found a folder", str(target), "name a file"
        )
    if not folder.is_dir():
        do = "create it, or name another"
        raise NightrankError("E_USAGE", "the folder does not exist", str(folder), do)
    if not os.access(folder, os.W_OK):
        raise NightrankError("E_USAGE", "the folder is not writable", str(folder), "name another")


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """Opens a file that replaces the target when it is complete; until then the old one remains.

    Raises:
        NightrankError: E_USAGE where it cannot be written.
    """
    check_writable(target)
    unfinished = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with open(unfinished, "wb") as file:
            yield file
        unfinished.replace(target)
    except OSError as error:
        what = f"cannot write: {error.strerror}"
        raise NightrankError("E_USAGE", what, str(target), "name another file") from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def replace_file(target: Path, data: bytes) -> None:
    """Writes a whole file; see `replacing`."""
    with replacing(target) as file:
        file.write(data)
