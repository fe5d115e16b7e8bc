"""The store of a lake, on a local disk or S3: create-if-absent, hashed writes, reads.

Nothing here overwrites a file. A data file gets a unique name and counts only once a record that
names it exists; records and log entries are created by `put_if_absent`, whose first writer wins.
This primitive is the whole commit protocol: `link(2)` on a local disk, PutObject with
`If-None-Match: *` on S3.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from nightrank.errors import NightrankError, is_utf8, printable
from nightrank.storage import disk
from nightrank.storage.filesystem import FileInfo, StorageOptions, connect, is_remote

# Folder of the files that `probe` creates; `gc` deletes them, since a writer may not be allowed to.
PROBES = "_probe"
# Larger objects are uploaded in parts, ten at once: a fault costs one part, and a process holds
# 160 MiB of them; the 50 MiB of s3fs would be 500.
PART_BYTES = 16 << 20


@dataclass(frozen=True)
class StoreSpec:
    """The plain, picklable description with which a worker process opens the same store."""

    url: str
    options: StorageOptions


class Store:
    """Keys under one root: `/`-separated, made by this program and never from users' data.

    Raises:
        NightrankError: E_CONFIG for a root that is not UTF-8.
    """

    def __init__(self, url: str, options: StorageOptions | None = None) -> None:
        self.url, self.options = url.rstrip("/"), options or {}
        self.remote = is_remote(url)
        self._fs, self._root = connect(self.url, self.options)
        if not is_utf8(self._root):
            what = "the lake's path is not valid UTF-8"
            raise NightrankError("E_CONFIG", what, printable(self._root), "choose another root")

    @property
    def place(self) -> tuple[Any, str]:
        """The fsspec filesystem, and the root in it."""
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
        """The absolute local path or s3:// url of a key."""
        return f"s3://{self._root}/{key}" if self.remote else os.path.join(self._root, key)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Creates `key` with `data`, durably, unless it exists.

        Returns:
            True where the key now holds exactly `data`, False where it holds other bytes. If a
            reply is lost (S3 may have written and not answered), the key is read back, so that a
            writer never mistakes its own write for a concurrent one.

        Raises:
            NightrankError: E_DISK, E_AUTH, E_STORE_RETRY or E_STORE_UNFIT.
        """
        with self.translated_errors(key):
            return self._create(key, data)

    def _create(self, key: str, data: bytes) -> bool:
        target = f"{self._root}/{key}"
        if self.remote:
            try:
                self._fs.pipe_file(target, data, mode="create")
                return True
            except FileExistsError:
                return bool(self._fs.cat_file(target) == data)
        return disk.create(target, data)

    def write(
        self,
        key: str,
        fill: Callable[[BinaryIO], object],
        check: Callable[[str], None] | None = None,
    ) -> tuple[int, str]:
        """Writes a new data file under a unique key.

        On S3 the bytes go to a local file first: a streaming upload whose body raises would publish
        a truncated object.

        Args:
            key: a key that no other writer uses.
            fill: writes the content to an open file.
            check: called with the local path of the finished file; raises to refuse it.

        Returns:
            Size in bytes, and sha256 in hex.
        """
        if not self.remote:
            target = f"{self._root}/{key}"
            with self.translated_errors(key):
                return disk.write(target, fill, check)
        with (
            self.translated_errors(key),
            tempfile.TemporaryDirectory(prefix="nightrank-") as scratch,
        ):
            local = os.path.join(scratch, "upload")
            size, sha256 = disk.write(local, fill, check)
            self._upload(local, key, size)
        return size, sha256

    def _upload(self, local: str, key: str, size: int) -> None:
        """Uploads a file under a unique key.

        The write is conditional although the key is unique, so that a bucket policy can refuse all
        unconditional writes and protect published files (infra/iam/bucket.json). If a reply is
        lost, the next try finds that the object exists, or that the multipart upload does not: an
        object of this size was then written by the first try.
        """
        target = f"{self._root}/{key}"
        for last in (False, True):
            try:
                self._fs.put_file(local, target, chunksize=PART_BYTES, mode="create")
                return
            except (FileExistsError, FileNotFoundError):
                with contextlib.suppress(FileNotFoundError):
                    if self._fs.info(target)["size"] == size:
                        return
                if last:
                    raise

    def read(self, key: str, start: int | None = None, stop: int | None = None) -> bytes:
        """The bytes of a key, or of a range of it.

        Raises:
            FileNotFoundError: the key does not exist.
        """
        with self.translated_errors(key):
            return cast(bytes, self._fs.cat_file(f"{self._root}/{key}", start=start, end=stop))

    def exists(self, key: str) -> bool:
        """Whether a key exists."""
        with self.translated_errors(key):
            return bool(self._fs.exists(f"{self._root}/{key}"))

    def open_file(self, key: str) -> BinaryIO:
        """Opens a key for reads at any position, e.g. of Parquet row groups."""
        if self.remote:
            return cast(
                BinaryIO, self._fs.open(f"{self._root}/{key}", "rb", cache_type="readahead")
            )
        return open(f"{self._root}/{key}", "rb")

    def files(self, folder: str) -> dict[str, int]:
        """Names (without the folder) and sizes of the files directly in a folder."""
        files = {n: int(e["size"]) for n, e in self._listing(folder) if e["type"] == "file"}
        return {name: size for name, size in files.items() if ".tmp-" not in name}

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly in a folder, sorted."""
        return sorted(name for name, e in self._listing(folder) if e["type"] != "file")

    def _listing(self, folder: str) -> list[tuple[str, FileInfo]]:
        """Names and fsspec infos of the entries directly in a folder; empty where it is missing."""
        try:
            with self.translated_errors(folder):
                entries = self._fs.ls(f"{self._root}/{folder}", detail=True)
        except FileNotFoundError:
            return []
        return [(entry["name"].rstrip("/").rsplit("/", 1)[-1], entry) for entry in entries]

    def probe(self) -> None:
        """Checks that this store honours create-if-absent, and refuses it otherwise.

        Raises:
            NightrankError: E_STORE_UNFIT where a second create is not refused, the first bytes do
                not survive, or every user may write; E_AUTH where writing is not allowed, or a
                missing key is answered by a refusal.
        """
        self._refuse_shared()
        key = f"{PROBES}/{uuid.uuid4().hex}"
        try:
            created = self.put_if_absent(key, b"first")
            again = self.put_if_absent(key, b"second")
            survived = self.read(key) == b"first"
            with contextlib.suppress(FileNotFoundError):  # E_AUTH without s3:ListBucket.
                self.read(f"{key}-missing")
        except (OSError, TypeError, ValueError) as error:
            do = "check that the root can be written and supports links or conditional puts"
            reason = getattr(error, "strerror", None) or error
            what = f"a file cannot be created here: {reason}"
            raise NightrankError("E_STORE_UNFIT", what, self.url, do) from None
        if not created or again or not survived:
            what = "the store does not honour create-if-absent: a second create was not refused"
            do = "use a store with conditional writes, or published results could be lost"
            raise NightrankError("E_STORE_UNFIT", what, self.url, do)
        with contextlib.suppress(Exception):  # A writer may not be allowed to delete.
            self._fs.rm_file(f"{self._root}/{key}")

    def _refuse_shared(self) -> None:
        """Refuses a local root that every user can write to: any could change what is published."""
        if self.remote or not os.path.isdir(self._root):
            return
        mode = os.stat(self._root).st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            what = "every user of this machine can write to the lake"
            raise NightrankError("E_STORE_UNFIT", what, self.url, f"chmod o-w {self._root}")

    @contextlib.contextmanager
    def translated_errors(self, key: str) -> Iterator[None]:
        """Raises a local disk's errors as NightrankError; those of S3 are translated already.

        Raises:
            NightrankError: E_AUTH, E_DISK, or E_STORE_UNFIT where the path cannot be a folder.
        """
        try:
            yield
        except PermissionError as error:
            do = "grant this user access to the folder"
            what = f"access denied: {error.strerror}"
            raise NightrankError("E_AUTH", what, self.path(key), do) from None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                do = "free space or raise the quota, then run the same command again"
                what = f"no space left: {error.strerror}"
            elif error.errno in (errno.EIO, errno.EROFS, errno.ESTALE):
                do = "check the disk or the mount, then run the same command again"
                what = f"the file system fails: {error.strerror}"
            elif error.errno in (errno.EMFILE, errno.ENFILE):
                do = "raise `ulimit -n`, then run the same command again"
                what = f"a file cannot be opened: {error.strerror}"
            elif error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
                what = f"the path cannot be a folder: {error.strerror}"
                raise NightrankError(
                    "E_STORE_UNFIT", what, self.path(key), "choose another folder"
                ) from None
            else:
                raise
            raise NightrankError("E_DISK", what, self.path(key), do) from None
