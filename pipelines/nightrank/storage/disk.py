"""Durable writes to a local disk: a file is complete and synced, or it does not exist."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import uuid
from collections.abc import Callable
from typing import Any, BinaryIO, cast


class HashingWriter:
    """A file object that counts and hashes the bytes written through it."""

    def __init__(self, raw: BinaryIO) -> None:
        self.raw, self.sha256, self.size = raw, hashlib.sha256(), 0
        self.closed = False

    def write(self, data: Any) -> int:
        """Writes all of `data`; a short write of the raw file is continued."""
        view = memoryview(data).cast("B")
        self.sha256.update(view)
        self.size += len(view)
        done = 0
        while done < len(view):
            done += self.raw.write(view[done:])
        return len(view)

    def flush(self) -> None:
        """Flushes the raw file."""
        self.raw.flush()

    def tell(self) -> int:
        """Bytes written so far."""
        return self.size

    def writable(self) -> bool:
        """Always true; pyarrow checks it."""
        return True

    def readable(self) -> bool:
        """Always false."""
        return False

    def seekable(self) -> bool:
        """Always false."""
        return False

    def close(self) -> None:
        """Leaves the raw file open: the store syncs it first."""
        self.closed = True


def create(target: str, data: bytes) -> bool:
    """Creates a file with `data`, durably, unless it exists.

    Returns:
        Whether the file now holds exactly `data`.
    """
    make_folder(os.path.dirname(target))
    temporary = f"{target}.tmp-{uuid.uuid4().hex}"
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "wb") as raw:
            raw.write(data)
            raw.flush()
            os.fsync(raw.fileno())
        try:
            os.link(temporary, target)
        except FileExistsError:
            with open(target, "rb") as existing:
                return existing.read() == data
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    _sync_folder(os.path.dirname(target))
    return True


def write(
    target: str, fill: Callable[[BinaryIO], object], check: Callable[[str], None] | None
) -> tuple[int, str]:
    """Writes a new file and syncs it; removes it if anything fails.

    Args:
        target: path of the file.
        fill: writes the content to an open file.
        check: called with the path of the finished file; raises to refuse it.

    Returns:
        Size in bytes, and sha256 in hex.
    """
    make_folder(os.path.dirname(target))
    try:
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "wb", 0) as raw:
            writer = HashingWriter(cast(BinaryIO, raw))
            fill(cast(BinaryIO, writer))
            os.fsync(raw.fileno())
            if os.fstat(raw.fileno()).st_size != writer.size:
                raise OSError(errno.ENOSPC, "file is shorter than what was written")
        if check:
            check(target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target)
        raise
    _sync_folder(os.path.dirname(target))
    return writer.size, writer.sha256.hexdigest()


def make_folder(path: str) -> None:
    """Creates a folder and its parents, and syncs their entries: a record survives a power cut."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    if missing:
        os.makedirs(missing[0], exist_ok=True)
        for folder in missing:
            _sync_folder(os.path.dirname(folder))


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
