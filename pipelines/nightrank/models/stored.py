"""Models in the lake: stored once by digest at planning, fetched from there by every node.

`models/<digest>` is a dataset of one file a shard. `models/_names/<fingerprint>/<n>.json` says
which digest a name of the configuration has meant, the highest number last: where the folder or the
hub that was named is out of reach, planning takes the files from here. Toys and built-in models
come with the program and are not stored.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from nightrank.errors import NightrankError
from nightrank.models.folders.files import file_digest, model_files
from nightrank.models.folders.locating import locate
from nightrank.models.folders.safety import require_safe
from nightrank.models.protocols import ResolvedModel
from nightrank.models.registry import Found, comes_with_the_program, digest_of
from nightrank.storage.dataset import Blob, Dataset, Payload, Record, shard_names
from nightrank.storage.fingerprint import fingerprint
from nightrank.storage.reader import Reader
from nightrank.storage.sealed import seal, unseal
from nightrank.storage.store import Store

VERSION = 1
FOLDER = "models"


def dataset_of(identity: dict[str, Any]) -> str:
    """Where the files of a model lie, by its identity in a plan or a log entry; "" for none."""
    return "" if comes_with_the_program(identity["model"]) else f"{FOLDER}/{identity['digest']}"


def put(
    store: Store,
    found: Found,
    digest: str,
    name: tuple[str, str | None],
    tell: Callable[[str], Any],
) -> str:
    """Stores a model's files, unless they are, and what its name means; returns the dataset.

    Args:
        store: the lake.
        found: the folder, and the hub commit.
        digest: what the model is planned with.
        name: model and revision as the configuration has them.
        tell: given a line when something has to be copied.

    Raises:
        NightrankError: E_INPUT_CHANGED where a file changes meanwhile; what the store raises.
    """
    folder, commit = found
    dataset = Dataset(store, f"{FOLDER}/{digest}")
    if dataset.manifest() is None:
        files = model_files(folder)
        size = sum((folder / file).stat().st_size for file in files)
        tell(f"model {name[0]}: {size / 1e6:,.1f} MB are stored in the lake, for all nodes")
        done, attempts = dataset.records(), dataset.next_attempts()
        records: list[Record] = []
        for shard, file in zip(shard_names(len(files)), files, strict=True):
            attempt = attempts.get(shard, 0)
            records.append(done.get(shard) or _copy(dataset, shard, attempt, folder, file))
        dataset.finish("store model", VERSION, {"digest": digest}, records)
    meant = {"model": name[0], "revision": name[1] or "", "commit": commit, "digest": digest}
    while _meaning(store, name) != meant:
        key = f"{_names(name)}/{_last(store, name) + 1:08d}.json"
        store.put_if_absent(key, seal(meant))
    return dataset.path


def find(store: Store, model: str, revision: str | None) -> Found | None:
    """The folder of a model on this node, from the lake; None for one to be looked for by name.

    A folder that is here counts, whatever was stored under its name.

    Raises:
        NightrankError: E_CORRUPT where what is stored is damaged; E_MODEL as `require_safe`.
    """
    if comes_with_the_program(model) or Path(model).expanduser().is_dir():
        return None
    meant = _meaning(store, (model, revision))
    if meant is None:
        return None
    try:
        folder = Reader(store).folder(f"{FOLDER}/{meant['digest']}")
    except FileNotFoundError:  # Collected since.
        return None
    return require_safe(folder, model), meant["commit"]


def send(store: Store, model: str, revision: str | None, tell: Callable[[str], Any]) -> None:
    """Stores a model for a planning that happens elsewhere, where this machine has it.

    Raises:
        NightrankError: E_MODEL for a folder that cannot be used; what `put` raises.
    """
    if comes_with_the_program(model):
        return
    here, name = Path(model).expanduser().is_dir(), (model, revision)
    meant = _meaning(store, name)
    if not here and meant and Dataset(store, f"{FOLDER}/{meant['digest']}").manifest():
        return
    try:
        found = locate(model, revision)
    except NightrankError as error:
        if here:
            raise
        tell(f"model {model} is left to the cluster to find: {error.what}")
        return
    put(store, found, digest_of(found[0]), name, tell)


def on_this_node(model: ResolvedModel, read: Reader) -> ResolvedModel:
    """The model with its files on this node; the path that planning knew need not exist here.

    Raises:
        NightrankError: E_MODEL where the lake has none; E_CORRUPT where they are damaged.
    """
    if not model.stored:
        return model
    try:
        return replace(model, path=str(read.folder(model.stored)))
    except FileNotFoundError as error:
        what, do = "the lake no longer holds its files", "run the same command again to store them"
        raise NightrankError("E_MODEL", what, f"{model.model}, {error}", do) from None


def _copy(dataset: Dataset, shard: str, attempt: int, folder: Path, name: str) -> Record:
    path, expected = folder / name, file_digest(folder / name)

    def write(target: BinaryIO) -> None:
        with open(path, "rb") as source:
            shutil.copyfileobj(source, target, 1 << 20)

    def check(copy: str) -> None:
        if file_digest(Path(copy)) != expected:
            do = "run the same command again once nobody writes there"
            raise NightrankError("E_INPUT_CHANGED", "changed while it was stored", str(path), do)

    return dataset.commit(
        shard, attempt, Payload({"file": Blob(write, check)}, {"name": name}), lambda: 0.0
    )


def _names(name: tuple[str, str | None]) -> str:
    return f"{FOLDER}/_names/{fingerprint({'model': name[0], 'revision': name[1] or ''})}"


def _last(store: Store, name: tuple[str, str | None]) -> int:
    return max((int(n[:-5]) for n in store.files(_names(name)) if n.endswith(".json")), default=0)


def _meaning(store: Store, name: tuple[str, str | None]) -> dict[str, str] | None:
    """What a name was last stored as."""
    last = _last(store, name)
    if not last:
        return None
    key = f"{_names(name)}/{last:08d}.json"
    plain = unseal(store.read(key), store.path(key), "delete it; the model is stored anew")
    return {part: plain[part] for part in ("model", "revision", "commit", "digest")}
