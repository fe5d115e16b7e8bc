"""The files that a model is loaded from, their digests, and JSON that is read from them.

Reads JSON and hashes files; imports neither torch nor transformers.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from nightrank.errors import NightrankError

# Weights, configuration, chat templates, and the vocabularies that transformers' tokenizers name
# (VOCAB_FILES_NAMES of version 5: *.model, *.spm, bpe.codes, prophetnet.tokenizer, ...).
LOADED_SUFFIXES = (
    ".safetensors", ".json", ".txt", ".jinja",
    ".model", ".spm", ".codes", ".bpe", ".tiktoken", ".tokenizer", ".vocab",
)  # fmt: skip
TEMPLATES = "additional_chat_templates"


def file_digest(path: Path) -> str:
    """sha256 of a file, hex; cached while the file's size and modification time stay the same."""
    status = path.stat()
    return _file_digest(str(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _file_digest(path: str, size: int, time_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """sha256 over the relative names and digests of `model_files`, sorted by name."""
    total = hashlib.sha256()
    for name in model_files(folder):
        total.update(f"{name}\0{file_digest(folder / name)}\n".encode())
    return total.hexdigest()


def model_files(folder: Path) -> list[str]:
    """The relative names of the files that a model is loaded from, sorted as paths are.

    Those are weights, configuration and vocabulary in the folder and in its modules' folders. Other
    forms of the weights (onnx/, openvino/), training checkpoints, images and README files are never
    opened, and therefore not stored.
    """
    paths: set[Path] = set()
    for part in (*loaded_folders(folder), folder / TEMPLATES):
        if part.is_dir():
            paths.update(p for p in part.iterdir() if p.suffix in LOADED_SUFFIXES and p.is_file())
    names = [path.relative_to(folder) for path in sorted(paths)]
    return [name.as_posix() for name in names if not any(p.startswith(".") for p in name.parts)]


def loaded_folders(folder: Path) -> list[Path]:
    """The folder, and those of the modules that its modules.json and router_config.json list."""
    folders = [folder]
    listed = folder / "modules.json"
    for module in module_list(listed) if listed.is_file() else ():
        folders.extend(_with_routes(_within(folder, str(module.get("path") or ""))))
    return list(dict.fromkeys(folders))


def _with_routes(folder: Path) -> list[Path]:
    """A module's folder, and the folders of the modules that a Router chooses from."""
    file = folder / "router_config.json"
    if not file.is_file():
        return [folder]
    types = read_json(file).get("types")
    return [folder, *(_within(folder, str(name)) for name in types or ())]


def _within(folder: Path, name: str) -> Path:
    """A subfolder of a model's folder.

    Raises:
        NightrankError: E_MODEL, where the name leads out of the folder.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        what = f"a module's folder lies outside the model's: {name!r:.80}"
        raise NightrankError("E_MODEL", what, str(folder), "correct modules.json")
    return folder / name


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        NightrankError: E_MODEL, where the file is missing or holds something else.
    """
    plain = _parsed(path)
    if not isinstance(plain, dict):
        what = f"{path.name} is missing or no JSON object"
        raise NightrankError("E_MODEL", what, str(path.parent), "check the model's files")
    return plain


def module_list(path: Path) -> list[dict[str, Any]]:
    """The modules that a modules.json lists.

    Raises:
        NightrankError: E_MODEL, where it is not a list of objects.
    """
    plain = _parsed(path)
    if not isinstance(plain, list) or not all(isinstance(module, dict) for module in plain):
        what = f"{path.name} is no list of modules"
        raise NightrankError("E_MODEL", what, str(path.parent), "check the model's files")
    return plain


def _parsed(path: Path) -> Any:
    """What a JSON file holds; None where it is missing, unreadable or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
