"""What a node keeps of the lake on its own disk: files by digest, shared by all its processes.

A file is checked by sha256 whenever it is asked for, and fetched again where it is not what it was.
It appears under its name whole or not at all, and of several processes that want it at once one
fetches. What nobody has asked for in a week goes when something new comes.
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
    """What was fetched is not what was recorded; the digest found is its text."""


class NodeCache:
    """A folder of this user's, in the system's folder for temporary files (TMPDIR)."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.gettempdir()) / f"nightrank-cache-{os.getuid()}"

    def file(self, sha256: str, size: int, fetch: Callable[[], Iterable[bytes]]) -> Path:
        """The cached file of a digest.

        Args:
            sha256: of the file, hex.
            size: of the file, bytes.
            fetch: gives its bytes in order, where they have to be fetched.

        Raises:
            Altered: where what was fetched has another size or digest.
            NightrankError: E_DISK without space; E_STORE_UNFIT where the folder is another user's.
        """
        target = self._own() / sha256
        if not _holds(target, sha256, size):
            with self._alone(sha256), _told(self.folder):
                # Another process may have fetched it meanwhile.
                if not _holds(target, sha256, size):
                    self._drop_unused()
                    self._place(target, sha256, size, fetch())
        with contextlib.suppress(OSError):
            os.utime(target)
        return target

    def view(self, links: Mapping[str, str]) -> Path:
        """A folder that shows files under names of their own, as links.

        Args:
            links: path within the folder to the file's absolute path.
        """
        lines = "".join(f"{name}\0{target}\n" for name, target in sorted(links.items()))
        target = self._own() / f"view-{hashlib.sha256(lines.encode()).hexdigest()[:32]}"
        if not _shows(target, links):
            made = Path(tempfile.mkdtemp(dir=self.folder, prefix="making-"))
            for name, file in links.items():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                (made / name).symlink_to(file)
            with self._alone(target.name):
                if not _shows(target, links):
                    shutil.rmtree(target, ignore_errors=True)
                    made.rename(target)
            shutil.rmtree(made, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.utime(target)
        return target

    def _own(self) -> Path:
        """The folder; a predictable name in a shared place must be this user's and private."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self.folder.lstat()
        if self.folder.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o022:
            what = "the node's cache is a link, another user's, or can be written by others"
            do = "remove it, or set TMPDIR to a folder of your own"
            raise NightrankError("E_STORE_UNFIT", what, str(self.folder), do)
        return self.folder

    def _place(self, target: Path, sha256: str, size: int, chunks: Iterable[bytes]) -> None:
        found, written = hashlib.sha256(), 0
        handle, made = tempfile.mkstemp(dir=self.folder, prefix="making-")
        try:
            with open(handle, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                    found.update(chunk)
                    written += len(chunk)
            if (written, found.hexdigest()) != (size, sha256):
                raise Altered(found.hexdigest())
            os.replace(made, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(made)
            raise

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """One process of the node at a time; a lock that a killed process held is free."""
        with open(self.folder / f"{name}.lock", "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _drop_unused(self) -> None:
        """Files that were last asked for a week ago; who has one open keeps it."""
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - path.lstat().st_mtime > UNUSED_SECONDS:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _holds(path: Path, sha256: str, size: int) -> bool:
    """Whether a file is there and is what it should be."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size != size:
                return False
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False


def _shows(folder: Path, links: Mapping[str, str]) -> bool:
    """Whether a view holds every link as it should be."""
    try:
        return all(os.readlink(folder / name) == target for name, target in links.items())
    except OSError:
        return False


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """A full disk on one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        do = "free space on this node, or set TMPDIR to a larger disk"
        what = f"no space left for the node's cache: {error.strerror}"
        raise NightrankError("E_DISK", what, str(folder), do) from None
