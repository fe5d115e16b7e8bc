"""The lake's one store: create-if-absent, hashed writes, verified reads; local disk or S3.

Nothing here overwrites. A data file goes to a name of its own and means nothing until a record
that names it has been created; records and log entries are created by `put_if_absent`, whose first
writer wins. That one primitive is the whole commit protocol: `link(2)` on a local disk, PutObject
with `If-None-Match: *` on S3.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar, cast

from pipelines.errors import NightrankError
from pipelines.storage.filesystem import connect, is_remote

T = TypeVar("T")
TRIES = 8
CAP_SECONDS = 20.0


@dataclass(frozen=True)
class StoreSpec:
    """What a worker process needs to open the same store; plain and picklable."""

    url: str
    options: dict[str, Any]


class HashingWriter:
    """A file object that counts and hashes what passes through it."""

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
        """Always true; asked by pyarrow."""
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


class Store:
    """Keys under one root, `/`-separated and made by this program, never from users' data."""

    def __init__(self, url: str, options: dict[str, Any] | None = None) -> None:
        self.url, self.options = url.rstrip("/"), options or {}
        self.remote = is_remote(url)
        self._fs, self._root = connect(self.url, self.options)

    @property
    def place(self) -> tuple[Any, str]:
        """The filesystem and the root in it."""
        return self._fs, self._root

    @property
    def spec(self) -> StoreSpec:
        """The picklable description of this store, with an absolute root."""
        return StoreSpec(self.url if self.remote else self._root, self.options)

    @staticmethod
    def open(spec: StoreSpec) -> Store:
        """Opens the store that `spec` describes."""
        return Store(spec.url, spec.options)

    def path(self, key: str) -> str:
        """Where a key lies: an absolute local path or an s3:// url."""
        return f"s3://{self._root}/{key}" if self.remote else os.path.join(self._root, key)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Creates `key` with `data`, durably, unless it exists.

        Returns:
            True where the key now holds exactly `data`, False where it holds something else. A
            reply lost on the way (S3 may have written and failed to say so) is settled by reading
            back, so a writer never takes its own write for a rival's.

        Raises:
            NightrankError: E_DISK, E_AUTH or E_STORE_RETRY.
        """
        return self.attempt(lambda: self._create(key, data), key)

    def _create(self, key: str, data: bytes) -> bool:
        target = f"{self._root}/{key}"
        if self.remote:
            try:
                self._fs.pipe_file(target, data, mode="create")
                return True
            except FileExistsError:
                return bool(self._fs.cat_file(target) == data)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        temporary = f"{target}.tmp-{uuid.uuid4().hex}"
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "wb") as raw:
                raw.write(data)
                raw.flush()
                os.fsync(raw.fileno())
            try:
                os.link(temporary, target)
            except FileExistsError:
                with open(target, "rb") as there:
                    return there.read() == data
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        _sync_folder(os.path.dirname(target))
        return True

    def write(
        self,
        key: str,
        fill: Callable[[BinaryIO], object],
        check: Callable[[str], None] | None = None,
    ) -> tuple[int, str]:
        """Writes a new data file under a name that nobody else uses.

        On S3 the bytes go to a local file first: a streaming upload whose body raises would publish
        a truncated object.

        Args:
            key: an attempt-unique key.
            fill: writes the content to the file object it is given.
            check: called with the local path of the finished file; raises to refuse it.

        Returns:
            Size in bytes and sha256 in hex of what was written.
        """
        if not self.remote:
            target = f"{self._root}/{key}"
            os.makedirs(os.path.dirname(target), exist_ok=True)
            return self.attempt(lambda: _write_local(target, fill, check), key)
        with tempfile.TemporaryDirectory(prefix="nightrank-") as scratch:
            local = os.path.join(scratch, "upload")
            size, sha256 = self.attempt(lambda: _write_local(local, fill, check), key)
            self.attempt(lambda: self._fs.put_file(local, f"{self._root}/{key}"), key)
        return size, sha256

    def read(self, key: str, start: int | None = None, stop: int | None = None) -> bytes:
        """The bytes of a key, or of a range of it.

        Raises:
            FileNotFoundError: where the key does not exist.
        """
        target = f"{self._root}/{key}"

        def fetch() -> bytes:
            return cast(bytes, self._fs.cat_file(target, start=start, end=stop))

        return self.attempt(fetch, key)

    def open_file(self, key: str) -> BinaryIO:
        """Opens a key for random reads (Parquet row groups)."""
        if self.remote:
            return cast(
                BinaryIO, self._fs.open(f"{self._root}/{key}", "rb", cache_type="readahead")
            )
        return open(f"{self._root}/{key}", "rb")

    def files(self, folder: str) -> dict[str, int]:
        """Names (without the folder) and sizes of the files directly in a folder."""

        def listing() -> dict[str, int]:
            try:
                found = self._fs.ls(f"{self._root}/{folder}", detail=True)
            except FileNotFoundError:
                return {}
            names = ((entry["name"].rsplit("/", 1)[-1], entry) for entry in found)
            return {n: int(e["size"]) for n, e in names if e["type"] == "file" and ".tmp-" not in n}

        return self.attempt(listing, folder)

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly in a folder, sorted."""

        def listing() -> list[str]:
            try:
                found = self._fs.ls(f"{self._root}/{folder}", detail=True)
            except FileNotFoundError:
                return []
            names = (e["name"].rstrip("/").rsplit("/", 1)[-1] for e in found if e["type"] != "file")
            return sorted(names)

        return self.attempt(listing, folder)

    def probe(self) -> None:
        """Checks that this store honours create-if-absent, and refuses it otherwise.

        Raises:
            NightrankError: E_STORE_UNFIT where a second create is not refused or the first bytes
                do not survive; E_AUTH where writing is not allowed.
        """
        key = f"_probe/{uuid.uuid4().hex}"
        try:
            created = self.put_if_absent(key, b"first")
            again = self.put_if_absent(key, b"second")
            survived = self.read(key) == b"first"
        except (OSError, TypeError, ValueError) as error:
            do = "check that the root can be written and supports links or conditional puts"
            reason = getattr(error, "strerror", None) or error
            what = f"a file cannot be created here: {reason}"
            raise NightrankError("E_STORE_UNFIT", what, self.url, do) from None
        if not created or again or not survived:
            what = "the store does not honour create-if-absent (a second create was not refused)"
            do = "use a store with conditional writes; a run there could lose published results"
            raise NightrankError("E_STORE_UNFIT", what, self.url, do)
        with contextlib.suppress(Exception):  # A writer role need not be allowed to delete.
            self._fs.rm_file(f"{self._root}/{key}")

    def attempt(self, call: Callable[[], T], key: str) -> T:
        """Runs one operation; remote ones are repeated with full jitter on transient errors."""
        for attempt in range(TRIES):
            try:
                return call()
            except (FileNotFoundError, FileExistsError):
                raise
            except PermissionError as error:
                do = "grant this role access to the prefix, or renew the credentials"
                raise NightrankError(
                    "E_AUTH", f"access denied: {error}", self.path(key), do
                ) from None
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    do = "free space or raise the quota, then run the same command again"
                    what = f"no space left: {error.strerror}"
                    raise NightrankError("E_DISK", what, self.path(key), do) from None
                if not self.remote:
                    raise
                last: Exception = error
            except Exception as error:
                if not self.remote or not _is_transient(error):
                    raise
                last = error
            time.sleep(random.uniform(0, min(CAP_SECONDS, 0.1 * 2**attempt)))
        what = f"gave up after {TRIES} tries: {type(last).__name__}: {last}"
        do = "run the same command again when the store answers"
        raise NightrankError("E_STORE_RETRY", what, self.path(key), do)


def _is_transient(error: Exception) -> bool:
    name = type(error).__name__
    return any(
        word in name
        for word in ("Timeout", "Connect", "Endpoint", "ServerDisconnected", "ClientError")
    )


def _write_local(
    target: str, fill: Callable[[BinaryIO], object], check: Callable[[str], None] | None
) -> tuple[int, str]:
    """Writes, syncs and returns (size, sha256); removes the file when anything goes wrong."""
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


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
