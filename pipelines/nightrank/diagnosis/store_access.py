"""Permissions of the current credentials on a lake and on an input, by requests to the store."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from nightrank.errors import NightrankError
from nightrank.inputs.files import find_files
from nightrank.inputs.listing import store_errors
from nightrank.storage.expiry import modified
from nightrank.storage.filesystem import StorageOptions, connect, is_remote
from nightrank.storage.store import PROBES, Store

LOCAL = ("list", "put", "get")


@dataclass(frozen=True)
class StoreAccess:
    """The permissions of a role under a lake's prefix.

    Attributes:
        refused: actions that are not allowed: by S3's names, or `list`, `put`, `get` on a disk.
        skew: seconds by which this machine's clock is ahead of the store's; None where unknown.
    """

    refused: tuple[str, ...]
    skew: float | None


def store_access(store: Store) -> StoreAccess:
    """Lists, creates and reads under the lake's prefix; may leave a probe file.

    Raises:
        NightrankError: E_AUTH where nothing at all is allowed, E_STORE_RETRY where the store does
            not answer, E_STORE_UNFIT where the bucket does not exist.
    """
    filesystem, root = store.place
    key = f"{root}/{PROBES}/{uuid.uuid4().hex}"
    names = ("s3:ListBucket", "s3:PutObject", "s3:GetObject") if store.remote else LOCAL
    refused: dict[str, NightrankError] = {}

    def attempt(action: str, call: Callable[[], Any]) -> bool:
        try:
            call()
            return True
        except FileNotFoundError as error:
            if store.remote and "bucket" in str(error).lower():
                what, do = "the bucket does not exist", "create it, or correct root"
                raise NightrankError("E_STORE_UNFIT", what, store.url, do) from None
            return False  # Allowed, and nothing is stored there.
        except PermissionError:
            do = "grant this user access to the folder"
            refused[action] = NightrankError("E_AUTH", "access denied", store.url, do)
        except NightrankError as error:
            if error.code != "E_AUTH":
                raise
            refused[action] = error
        return False

    attempt(names[0], lambda: filesystem.ls(f"{root}/{PROBES}", detail=False))
    created = attempt(names[1], lambda: store.put_if_absent(key.removeprefix(f"{root}/"), b"first"))
    now = time.time()
    attempt(names[2], lambda: filesystem.cat_file(key))
    if len(refused) == len(names):  # The first error names the cause.
        raise refused[names[0]]
    skew = None
    with contextlib.suppress(Exception):
        if store.remote and created:
            skew = now - modified(filesystem.info(key, refresh=True))
    with contextlib.suppress(Exception):  # A writer may not be allowed to delete.
        filesystem.rm_file(key)
    return StoreAccess(tuple(refused), skew)


@dataclass(frozen=True)
class InputSummary:
    """The files of an input.

    Attributes:
        files: number of files.
        size: total bytes.
        left_out: the files left out, for a message; may be empty.
    """

    files: int
    size: int
    left_out: str


def input_summary(
    path: str, format: str, options: StorageOptions, ignore: Iterable[str] = ()
) -> InputSummary:
    """Lists an input and opens its first file.

    Raises:
        NightrankError: E_EMPTY where there are no files; E_SCHEMA, E_AUTH, E_STORE_RETRY as
            `inputs.inventory`.
    """
    filesystem, place = connect(path, options)
    with store_errors(path, "E_EMPTY"):
        listed = find_files(filesystem, place, path, format, ignore)
        entries = list(listed.files.values())
        for first in entries[:1]:
            filesystem.cat_file(first.full, start=0, end=1)
    size = sum(entry.size for entry in entries)
    return InputSummary(len(entries), size, listed.left_out.describe())


def abandoned_uploads(store: Store, older_than: float) -> list[str]:
    """Keys of multipart uploads under the lake that began more than `older_than` seconds ago.

    Raises:
        NightrankError: E_AUTH where the role may not list them.
    """
    filesystem, root = store.place
    if not is_remote(store.url):
        return []
    bucket, _, prefix = root.partition("/")
    request = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else ""}
    uploads = []
    while True:
        answer = filesystem.call_s3("list_multipart_uploads", **request)
        uploads += answer.get("Uploads", [])
        if not answer.get("IsTruncated"):
            break
        request["KeyMarker"] = answer["NextKeyMarker"]
        request["UploadIdMarker"] = answer["NextUploadIdMarker"]
    now = time.time()
    return sorted(u["Key"] for u in uploads if now - u["Initiated"].timestamp() > older_than)
