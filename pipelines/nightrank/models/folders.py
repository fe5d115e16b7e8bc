"""Model folders: what they must hold, what they must not, and their digest.

A folder is trusted only as data: weights in safetensors, no code. Reads JSON and hashes files;
imports neither torch nor transformers.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from nightrank.errors import NightrankError

REVISION = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
DIGESTED = (".safetensors", ".json", ".txt", ".model")
OWN_MODULES = re.compile(r"sentence_transformers\.[\w.]+$")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
DOWNLOADED = ("*.safetensors", "*.json", "*.txt")


def file_digest(path: Path) -> str:
    """sha256 of a file, hex; remembered while its size and time stay the same."""
    status = path.stat()
    return _file_digest(str(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _file_digest(path: str, size: int, time_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """sha256 over the relative names and sha256 of the files that matter, sorted by name.

    Those are weights, configuration and vocabulary; read-me files and images do not count.
    """
    total = hashlib.sha256()
    for name in model_files(folder):
        total.update(f"{name}\0{file_digest(folder / name)}\n".encode())
    return total.hexdigest()


def model_files(folder: Path) -> list[str]:
    """The relative names of the files that matter, sorted as paths are."""
    found = sorted(p for p in folder.rglob("*") if p.suffix in DIGESTED and p.is_file())
    names = [path.relative_to(folder) for path in found]
    return [name.as_posix() for name in names if not any(p.startswith(".") for p in name.parts)]


def go_offline() -> None:
    """From here on this process asks no hub for anything; models come from folders alone."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    # Read once, when it is imported; `run` with the serial executor has planned in this process.
    if constants := sys.modules.get("huggingface_hub.constants"):
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        NightrankError: E_MODEL, where the file is missing or is none.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        plain = None
    if not isinstance(plain, dict):
        raise NightrankError(
            "E_MODEL",
            f"{path.name} is missing or no JSON object",
            str(path.parent),
            "check the model",
        )
    return plain


def checked(folder: Path, model: str) -> Path:
    """The folder, refused with weights in pickles only, or where it brings or names code.

    A folder that holds both forms is read through its safetensors.

    Raises:
        NightrankError: E_MODEL.
    """
    for path in folder.rglob("*.safetensors"):
        if fault := _fault(path):
            do = "fetch or convert the model again"
            raise NightrankError("E_MODEL", f"{path.name} {fault}", model, do)
    safe = {path.parent for path in folder.rglob("*.safetensors")}
    pickled = {path.parent for suffix in PICKLED for path in folder.rglob(suffix)}
    if not safe or pickled - safe:
        raise NightrankError(
            "E_MODEL",
            "no .safetensors weights" if not safe else "some weights are not in safetensors",
            model,
            "only safetensors are loaded; convert the weights with save_pretrained",
        )
    for path in folder.rglob("*config.json"):
        if "auto_map" in read_json(path):
            raise NightrankError(
                "E_MODEL",
                f"the model asks to run its own code (auto_map in {path.name})",
                model,
                "remote code is never run; use a model of an architecture that transformers has",
            )
    for path in folder.rglob("modules.json"):
        for module in _modules(path):
            if not OWN_MODULES.match(str(module.get("type"))):
                raise NightrankError(
                    "E_MODEL",
                    f"the model asks for a module of other code: {module.get('type')!r:.80}",
                    model,
                    "only modules of sentence-transformers are loaded",
                )
    return folder


def _fault(path: Path) -> str:
    """What is wrong with a safetensors file, by its header alone; empty where nothing is.

    Libraries take a weight that is missing as one to be drawn at random.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            return "is cut off or no safetensors file"
        try:
            header = json.loads(file.read(length))
            ends = [header[n]["data_offsets"][1] for n in header if n != "__metadata__"]
        except (ValueError, TypeError, KeyError, IndexError):
            return "has no readable header"
    if not ends:
        return "holds no weights"
    return "" if 8 + length + max(ends) == size else "is not as long as its header says"


def _modules(path: Path) -> list[dict[str, Any]]:
    """What a modules.json lists.

    Raises:
        NightrankError: E_MODEL, where it is no list of objects.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        plain = None
    if not isinstance(plain, list) or not all(isinstance(module, dict) for module in plain):
        what = f"{path.name} is no list of modules"
        raise NightrankError("E_MODEL", what, str(path.parent), "check the model")
    return plain


def locate(model: str, revision: str | None) -> tuple[Path, str]:
    """The local folder of a model that is neither built in nor a toy.

    Args:
        model: a folder, or a hub id ``owner/name``.
        revision: the 40-hex commit of a hub id.

    Returns:
        The folder, and the revision ("" for a plain folder).

    Raises:
        NightrankError: E_MODEL.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return checked(folder.resolve(), model), ""
    if not HUB_ID.fullmatch(model) or model.startswith(("builtin:", "toy:")):
        raise NightrankError(
            "E_MODEL",
            f"unknown model {model!r}: no such folder, and not a hub id",
            "",
            "use builtin:minilm, builtin:reranker, toy:bag-of-words, toy:overlap, a folder, or"
            " owner/name with a revision",
        )
    if revision is None or not REVISION.fullmatch(revision):
        raise NightrankError(
            "E_MODEL",
            f"no folder {model} here, and as a hub id it needs a revision of 40 hex digits,"
            f" found {revision!r}",
            "",
            "correct the path, or set revision to the commit on the model's page: branches move",
        )
    return checked(_download(model, revision), model), revision


def _download(model: str, revision: str) -> Path:
    """The hub snapshot from the local cache, else downloaded."""
    from huggingface_hub import snapshot_download

    wanted: dict[str, Any] = {
        "repo_id": model,
        "revision": revision,
        "allow_patterns": list(DOWNLOADED),
    }
    # Absence from the cache is told in several ways; each means: try the network.
    with suppress(Exception):
        return Path(snapshot_download(**wanted, local_files_only=True))
    try:
        return Path(snapshot_download(**wanted))
    except Exception as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NightrankError(
            "E_MODEL",
            f"cannot download {model}@{revision[:12]}: {first_line:.160}",
            "",
            "check the id, the revision and the network, or submit it from a machine that has it",
        ) from None
