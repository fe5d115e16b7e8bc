"""Ages, deletion and putting aside: for garbage collection and for repair, and for nothing else."""

from __future__ import annotations

import contextlib
import os
import uuid
from typing import Any

from nightrank.storage.store import PROBES, Store

KEYS_AT_ONCE = 1000


def clock(store: Store) -> float:
    """The store's own time in seconds since the epoch: when an object was written just now.

    Of a local disk as well: a clock that is a day ahead would make last night's run look old.
    """
    filesystem, root = store.place
    key = f"{PROBES}/{uuid.uuid4().hex}"
    store.put_if_absent(key, b"")
    now = modified(filesystem.info(f"{root}/{key}", refresh=True))
    filesystem.rm_file(f"{root}/{key}")
    return now


def ages(store: Store, folder: str, now: float) -> tuple[dict[str, int], float]:
    """All keys under a folder with their sizes, and seconds since the newest was written."""
    found = _infos(store, folder)
    newest = max((modified(info) for info in found.values()), default=0.0)
    return {key: int(info["size"]) for key, info in found.items()}, now - newest


def older(store: Store, folder: str, now: float, seconds: float) -> dict[str, int]:
    """Keys under a folder, with their sizes, that were written longer ago than that."""
    found = _infos(store, folder)
    old = {key: info for key, info in found.items() if now - modified(info) >= seconds}
    return {key: int(info["size"]) for key, info in old.items()}


def _infos(store: Store, folder: str) -> dict[str, dict[str, Any]]:
    """All keys under a folder, with what fsspec tells of each."""
    filesystem, root = store.place
    with store.told(folder):
        found = dict(filesystem.find(f"{root}/{folder}", detail=True))
    return {path.removeprefix(f"{root}/"): info for path, info in found.items()}


def delete(store: Store, keys: list[str]) -> None:
    """Deletes files, gone ones among them; on a local disk also the folders this empties."""
    filesystem, root = store.place
    if store.remote:
        for start in range(0, len(keys), KEYS_AT_ONCE):
            some = [f"{root}/{key}" for key in keys[start : start + KEYS_AT_ONCE]]
            filesystem.rm(some)
        return
    for key in keys:
        path = f"{root}/{key}"
        with contextlib.suppress(FileNotFoundError), store.told(key):
            os.unlink(path)
        with contextlib.suppress(OSError):  # Not empty: it stays.
            for _ in range(3):
                path = os.path.dirname(path)
                if path == root:
                    break
                os.rmdir(path)


def move(store: Store, key: str, to: str) -> None:
    """Gives a file another key; one that is gone already, by a rival's doing, does no harm."""
    filesystem, root = store.place
    with contextlib.suppress(FileNotFoundError), store.told(key):
        filesystem.makedirs(f"{root}/{to.rpartition('/')[0]}", exist_ok=True)
        filesystem.mv(f"{root}/{key}", f"{root}/{to}")


def modified(info: dict[str, Any]) -> float:
    """Seconds since the epoch at which a file was written, as fsspec tells it."""
    when = info.get("LastModified", info.get("mtime", 0.0))
    return float(when) if isinstance(when, int | float) else float(when.timestamp())
