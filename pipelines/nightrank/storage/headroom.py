"""Refuses a run that its disk has no room for: it would end half-way, after hours."""

from __future__ import annotations

import os
import shutil

from nightrank.errors import NightrankError
from nightrank.storage.filesystem import is_remote

# Of what a forecast says; artifacts came within 7 % of it.
MARGIN = 1.2


def free_of(root: str) -> tuple[str, int] | None:
    """The folder that a root lies or will lie in, and the bytes free there; None on S3."""
    if is_remote(root):
        return None
    folder = folder_of(root)
    return folder, shutil.disk_usage(folder).free


def folder_of(root: str) -> str:
    """The folder on this machine that a root lies or will lie in."""
    folder = os.path.abspath(root.removeprefix("file://"))
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def check(root: str, expected: int, source: str) -> None:
    """Refuses where less is free than a run will write.

    Args:
        root: the lake's.
        expected: bytes that it will write at least.
        source: who says so.

    Raises:
        NightrankError: E_HEADROOM.
    """
    found = free_of(root)
    wanted = int(expected * MARGIN)
    if found and found[1] < wanted:
        folder, free = found
        what = f"{wanted / 2**30:.1f} GiB are needed ({source}), {free / 2**30:.1f} GiB are free"
        raise NightrankError("E_HEADROOM", what, folder, "free space there, or choose another root")
