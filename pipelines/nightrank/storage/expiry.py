"""Ages, deletion and moving of files: for garbage collection and repair only."""

from __future__ import annotations

import contextlib
import os
import uuid

from nightrank.storage.filesystem import FileInfo
from nightrank.storage.store import PROBES, Store

KEYS_AT_ONCE = 1000


def clock(store: Store) -> float:
    """The store's own time, in seconds since the epoch: the time of an object written just now.

    On a local disk too: by a machine's clock that is a day ahead, yesterday's run would look old.
    """
    filesystem, root = store.place
    key = f"{PROBES}/{uuid.uuid4().hex}"
    store.put_if_absent(key, b"")
    now = modified(filesystem.info(f"{root}/{key}", refresh=True))
    filesystem.rm_file(f"{root}/{key}")
    return now


def ages(store: Store, folder: str, now: float) -> tuple[dict[str, int], float]:
    """All keys under a folder with their sizes, and the seconds since the newest was written."""
    infos = _infos(store, folder)
    newest = max((modified(info) for info in infos.values()), default=0.0)
    return {key: int(info["size"]) for key, info in infos.items()}, now - newest


def older(store: Store, folder: str, now: float, seconds: float) -> dict[str, int]:
    """Keys under a folder that were written at least `seconds` before `now`, with their sizes."""
    infos = _infos(store, folder)
    old = {key: info for key, info in infos.items() if now - modified(info) >= seconds}
    return {key: int(info["size"]) for key, info in old.items()}


def _infos(store: Store, folder: str) -> dict[str, FileInfo]:
    """All keys under a folder, with the info that fsspec gives of each."""
    filesystem, root = store.place
    with store.translated_errors(folder):
        infos = dict(filesystem.find(f"{root}/{folder}", detail=True))
    return {path.removeprefix(f"{root}/"): info for path, info in infos.items()}


def delete(store: Store, keys: list[str]) -> None:
    """Deletes files, ignoring missing ones; on a local disk also the folders that become empty."""
    filesystem, root = store.place
    if store.remote:
        for start in range(0, len(keys), KEYS_AT_ONCE):
            filesystem.rm([f"{root}/{key}" for key in keys[start : start + KEYS_AT_ONCE]])
        return
    for key in keys:
        path = f"{root}/{key}"
        with contextlib.suppress(FileNotFoundError), store.translated_errors(key):
            os.unlink(path)
        with contextlib.suppress(OSError):  # Not empty.
            for _ in range(3):
                path = os.path.dirname(path)
                if path == root:
                    break
                os.rmdir(path)


def move(store: Store, key: str, to: str) -> None:
    """Gives a file another key; does nothing where a concurrent run has already moved it."""
    filesystem, root = store.place
    with contextlib.suppress(FileNotFoundError), store.translated_errors(key):
        filesystem.makedirs(f"{root}/{to.rpartition('/')[0]}", exist_ok=True)
        filesystem.mv(f"{root}/{key}", f"{root}/{to}")


def modified(info: FileInfo) -> float:
    """The time at which a file was written, in seconds since the epoch, by fsspec's info of it."""
    if (when := info.get("LastModified")) is not None:
        return when.timestamp()
    return float(info.get("mtime", 0.0))
