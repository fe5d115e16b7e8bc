"""What the credentials at hand may do with a lake and with an input, asked of the store itself."""

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
from nightrank.storage.filesystem import connect, is_remote
from nightrank.storage.store import PROBES, Store

LOCAL = ("list", "put", "get")


@dataclass(frozen=True)
class StoreAccess:
    """What a role can do under a lake's prefix.

    Attributes:
        refused: actions that are not allowed: S3's names, on a local disk `list`, `put`, `get`.
        skew: seconds by which this machine's clock is ahead of the store's; None where it cannot be
            told.
    """

    refused: tuple[str, ...]
    skew: float | None


def store_access(store: Store) -> StoreAccess:
    """Lists, creates and reads under the lake's prefix; leaves a probe behind at most.

    Raises:
        NightrankError: E_AUTH where nothing at all is allowed, E_STORE_RETRY where the store does
            not answer, E_STORE_UNFIT where the bucket does not exist.
    """
    filesystem, root = store.place
    key = f"{root}/{PROBES}/{uuid.uuid4().hex}"
    names = ("s3:ListBucket", "s3:PutObject", "s3:GetObject") if store.remote else LOCAL
    refused: dict[str, NightrankError] = {}

    def ask(action: str, call: Callable[[], Any]) -> bool:
        try:
            call()
            return True
        except FileNotFoundError as error:
            if store.remote and "bucket" in str(error).lower():
                what, do = "the bucket does not exist", "create it, or correct root"
                raise NightrankError("E_STORE_UNFIT", what, store.url, do) from None
            return False  # Allowed to look, and nothing there.
        except PermissionError:
            do = "grant this user access to the folder"
            refused[action] = NightrankError("E_AUTH", "access denied", store.url, do)
        except NightrankError as error:
            if error.code != "E_AUTH":
                raise
            refused[action] = error
        return False

    ask(names[0], lambda: filesystem.ls(f"{root}/{PROBES}", detail=False))
    made = ask(names[1], lambda: store.put_if_absent(key.removeprefix(f"{root}/"), b"first"))
    now = time.time()
    ask(names[2], lambda: filesystem.cat_file(key))
    if len(refused) == len(names):  # No role at all, an expired one, a wrong clock: as it says.
        raise refused[names[0]]
    skew = None
    with contextlib.suppress(Exception):
        if store.remote and made:
            skew = now - modified(filesystem.info(key, refresh=True))
    with contextlib.suppress(Exception):  # A writer role need not be allowed to delete.
        filesystem.rm_file(key)
    return StoreAccess(tuple(refused), skew)


def input_reach(
    path: str, format: str, options: dict[str, Any], ignore: Iterable[str] = ()
) -> tuple[int, int, str]:
    """Files and bytes of an input, its first file opened, and what is left out of it, in words.

    Raises:
        NightrankError: E_EMPTY where there are none; E_SCHEMA, E_AUTH, E_STORE_RETRY as
            `inputs.inventory`.
    """
    filesystem, place = connect(path, options)
    with store_errors(path, "E_EMPTY"):
        found = find_files(filesystem, place, path, format, ignore)
        entries = list(found.files.values())
        for first in entries[:1]:
            filesystem.cat_file(first.full, start=0, end=1)
    return len(entries), sum(entry.size for entry in entries), found.left_out.describe()


def abandoned_uploads(store: Store, older_than: float) -> list[str]:
    """Keys of multipart uploads under the lake that nobody has finished for so many seconds.

    Raises:
        NightrankError: E_AUTH where the role may not list them.
    """
    filesystem, root = store.place
    if not is_remote(store.url):
        return []
    bucket, _, prefix = root.partition("/")
    asked: dict[str, Any] = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else ""}
    found = []
    while True:
        answer = filesystem.call_s3("list_multipart_uploads", **asked)
        found += answer.get("Uploads", [])
        if not answer.get("IsTruncated"):
            break
        asked["KeyMarker"] = answer["NextKeyMarker"]
        asked["UploadIdMarker"] = answer["NextUploadIdMarker"]
    now = time.time()
    return sorted(u["Key"] for u in found if now - u["Initiated"].timestamp() > older_than)
