"""A node's cache of the lake on its own disk: files by digest, shared by all its processes.

A file is checked by sha256 on every use, and fetched again where it was altered. It appears under
its name complete or not at all; of several processes that need it at once, one fetches it. Files
unused for a week are deleted when another file is fetched.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from nightrank.errors import NightrankError

UNUSED_SECONDS = 7 * 86_400.0


class Altered(Exception):
    """The fetched bytes are not those that were recorded; its text is the digest found."""


class NodeCache:
    """A folder of this user, in the system's folder for temporary files (TMPDIR)."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.gettempdir()) / f"nightrank-cache-{os.getuid()}"

    def file(self, sha256: str, size: int, fetch: Callable[[], Iterable[bytes]]) -> Path:
        """The cached file of a digest.

        Args:
            sha256: of the file, hex.
            size: of the file, bytes.
            fetch: yields the bytes in order, where they have to be fetched.

        Raises:
            Altered: the fetched bytes have another size or digest.
            NightrankError: E_DISK without space; E_STORE_UNFIT where the folder is another user's.
        """
        target = self._checked_folder() / sha256
        if not _is_intact(target, sha256, size):
            with self._lock(sha256), _translated_errors(self.folder):
                # Another process may have fetched it in the meantime.
                if not _is_intact(target, sha256, size):
                    self._drop_unused()
                    self._place(target, sha256, size, fetch())
        with contextlib.suppress(OSError):
            os.utime(target)
        return target

    def view(self, links: Mapping[str, str]) -> Path:
        """A folder of links to files.

        Args:
            links: the file's absolute path by path within the folder.
        """
        lines = "".join(f"{name}\0{target}\n" for name, target in sorted(links.items()))
        target = self._checked_folder() / f"view-{hashlib.sha256(lines.encode()).hexdigest()[:32]}"
        if not _has_links(target, links):
            temporary = Path(tempfile.mkdtemp(dir=self.folder, prefix="making-"))
            for name, file in links.items():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                (temporary / name).symlink_to(file)
            with self._lock(target.name):
                if not _has_links(target, links):
                    shutil.rmtree(target, ignore_errors=True)
                    temporary.rename(target)
            shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.utime(target)
        return target

    def _checked_folder(self) -> Path:
        """The folder, which must be private: its name in a shared place is predictable."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self.folder.lstat()
        if self.folder.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o022:
            what = "the node's cache is a link, another user's, or writable by others"
            do = "remove it, or set TMPDIR to a folder of your own"
            raise NightrankError("E_STORE_UNFIT", what, str(self.folder), do)
        return self.folder

    def _place(self, target: Path, sha256: str, size: int, chunks: Iterable[bytes]) -> None:
        digest, written = hashlib.sha256(), 0
        handle, temporary = tempfile.mkstemp(dir=self.folder, prefix="making-")
        try:
            with open(handle, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                    digest.update(chunk)
                    written += len(chunk)
            if (written, digest.hexdigest()) != (size, sha256):
                raise Altered(digest.hexdigest())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """One process of the node at a time; a killed process releases its lock."""
        with open(self.folder / f"{name}.lock", "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _drop_unused(self) -> None:
        """Deletes what was last used a week ago; processes that have a file open keep it."""
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - path.lstat().st_mtime > UNUSED_SECONDS:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_intact(path: Path, sha256: str, size: int) -> bool:
    """Whether a file exists and has this size and digest."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size != size:
                return False
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False


def _has_links(folder: Path, links: Mapping[str, str]) -> bool:
    """Whether a folder holds all of these links."""
    try:
        return all(os.readlink(folder / name) == target for name, target in links.items())
    except OSError:
        return False


@contextlib.contextmanager
def _translated_errors(folder: Path) -> Iterator[None]:
    """Raises E_DISK for a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        do = "free space on this node, or set TMPDIR to a larger disk"
        what = f"no space left for the node's cache: {error.strerror}"
        raise NightrankError("E_DISK", what, str(folder), do) from None
