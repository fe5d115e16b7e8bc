"""Models in the lake: stored once by digest at planning, fetched from there by every node.

`models/<digest>` is a dataset with one shard per file. `models/_names/<fingerprint>/<n>.json` says
which digest a name of the configuration referred to, the highest number being the latest: where the
folder or the hub is out of reach, planning takes the files from here. Toys and built-in models are
bundled and not stored.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from nightrank.errors import NightrankError
from nightrank.models.folders.files import file_digest, model_files
from nightrank.models.folders.locating import ModelFolder, locate
from nightrank.models.folders.safety import require_safe
from nightrank.models.protocols import ResolvedModel
from nightrank.models.registry import is_bundled, model_digest
from nightrank.storage.dataset import Blob, Dataset, Payload, Record, shard_names
from nightrank.storage.fingerprint import fingerprint
from nightrank.storage.reader import Reader
from nightrank.storage.sealed import seal, unseal
from nightrank.storage.store import Store

VERSION = 1
FOLDER = "models"


@dataclass(frozen=True)
class NamedModel:
    """What a name of the configuration referred to when its model was stored.

    Attributes:
        model: the name.
        revision: the configured revision, "" for none.
        commit: the hub commit, "" for a plain folder.
        digest: of the model's files.
    """

    model: str
    revision: str
    commit: str
    digest: str


def dataset_of(identity: Mapping[str, Any]) -> str:
    """The dataset of a model's files, by its identity in a plan or a log entry; "" for none."""
    return "" if is_bundled(identity["model"]) else f"{FOLDER}/{identity['digest']}"


def put(
    store: Store,
    located: ModelFolder,
    digest: str,
    name: tuple[str, str | None],
    report: Callable[[str], Any],
) -> str:
    """Stores a model's files unless the lake has them, and what its name refers to.

    Args:
        store: the lake.
        located: the folder, and the hub commit.
        digest: of the model, as planned.
        name: model and revision as the configuration has them.
        report: called with a line where files have to be copied.

    Returns:
        The dataset of the files.

    Raises:
        NightrankError: E_INPUT_CHANGED where a file changes during the copy; E_STORE* of the store.
    """
    folder, commit = located
    dataset = Dataset(store, f"{FOLDER}/{digest}")
    if dataset.manifest() is None:
        files = model_files(folder)
        size = sum((folder / file).stat().st_size for file in files)
        report(f"model {name[0]}: storing {size / 1e6:,.1f} MB in the lake, for all nodes")
        done, attempts = dataset.records(), dataset.next_attempts()
        records: list[Record] = []
        for shard, file in zip(shard_names(len(files)), files, strict=True):
            attempt = attempts.get(shard, 0)
            records.append(done.get(shard) or _copy(dataset, shard, attempt, folder, file))
        dataset.finish("store model", VERSION, {"digest": digest}, records)
    named = NamedModel(name[0], name[1] or "", commit, digest)
    while _latest(store, name) != named:
        key = f"{_names(name)}/{_last(store, name) + 1:08d}.json"
        store.put_if_absent(key, seal(asdict(named)))
    return dataset.path


def find(store: Store, model: str, revision: str | None) -> ModelFolder | None:
    """A model's folder on this node, fetched from the lake.

    Returns:
        None for a bundled model, one that the lake does not have, and a path to a folder that
        exists here: the folder then takes precedence over what was stored under its name.

    Raises:
        NightrankError: E_CORRUPT where the stored files are damaged; E_MODEL as `require_safe`.
    """
    if is_bundled(model) or Path(model).expanduser().is_dir():
        return None
    named = _latest(store, (model, revision))
    if named is None:
        return None
    try:
        folder = Reader(store).folder(f"{FOLDER}/{named.digest}")
    except FileNotFoundError:  # `gc` has deleted it since.
        return None
    return ModelFolder(require_safe(folder, model), named.commit)


def send(store: Store, model: str, revision: str | None, report: Callable[[str], Any]) -> None:
    """Stores a model that this machine has, for a run that is planned on another machine.

    Args:
        store: the lake.
        model: its name in the configuration.
        revision: the configured revision.
        report: called with a line where files are copied, or where this machine has none.

    Raises:
        NightrankError: E_MODEL for a folder that cannot be used; as `put`.
    """
    if is_bundled(model):
        return
    is_local, name = Path(model).expanduser().is_dir(), (model, revision)
    named = _latest(store, name)
    if not is_local and named and Dataset(store, f"{FOLDER}/{named.digest}").manifest():
        return
    try:
        located = locate(model, revision)
    except NightrankError as error:
        if is_local:
            raise
        report(f"model {model} is not on this machine, the cluster has to find it: {error.what}")
        return
    put(store, located, model_digest(located.path), name, report)


def on_this_node(model: ResolvedModel, read: Reader) -> ResolvedModel:
    """The model with the path of its files on this node; the planned path may not exist here.

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
            do = "run the same command again when nothing writes to it"
            raise NightrankError(
                "E_INPUT_CHANGED", "the file changed while it was stored", str(path), do
            )

    return dataset.commit(
        shard, attempt, Payload({"file": Blob(write, check)}, {"name": name}), lambda: 0.0
    )


def _names(name: tuple[str, str | None]) -> str:
    return f"{FOLDER}/_names/{fingerprint({'model': name[0], 'revision': name[1] or ''})}"


def _last(store: Store, name: tuple[str, str | None]) -> int:
    return max((int(n[:-5]) for n in store.files(_names(name)) if n.endswith(".json")), default=0)


def _latest(store: Store, name: tuple[str, str | None]) -> NamedModel | None:
    """What a name referred to when it was last stored."""
    last = _last(store, name)
    if not last:
        return None
    key = f"{_names(name)}/{last:08d}.json"
    plain = unseal(
        store.read(key), store.path(key), "delete it; the next run stores the model again"
    )
    return NamedModel(plain["model"], plain["revision"], plain["commit"], plain["digest"])
