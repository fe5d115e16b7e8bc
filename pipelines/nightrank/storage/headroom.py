"""Refuses a run that its disk has no space for, before it fails after hours."""

from __future__ import annotations

import os
import shutil

from nightrank.errors import NightrankError
from nightrank.storage.filesystem import is_remote

# Times the forecast; measured artifacts came within 7 % of it.
MARGIN = 1.2


def free_space(root: str) -> tuple[str, int] | None:
    """The existing folder that holds or will hold a root, and its free bytes; None on S3."""
    if is_remote(root):
        return None
    folder = existing_folder(root)
    return folder, shutil.disk_usage(folder).free


def existing_folder(root: str) -> str:
    """The nearest existing folder that holds or will hold a local root."""
    folder = os.path.abspath(root.removeprefix("file://"))
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def check(root: str, expected: int, source: str) -> None:
    """Refuses a run that needs more space than is free.

    Args:
        root: of the lake.
        expected: bytes that the run writes at least.
        source: where this number comes from, for the message.

    Raises:
        NightrankError: E_HEADROOM.
    """
    space = free_space(root)
    needed = int(expected * MARGIN)
    if space and space[1] < needed:
        folder, free = space
        what = f"{needed / 2**30:.1f} GiB are needed ({source}), {free / 2**30:.1f} GiB are free"
        raise NightrankError("E_HEADROOM", what, folder, "free space there, or choose another root")
