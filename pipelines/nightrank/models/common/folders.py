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
# Weights, configuration, chat templates, and the vocabularies that transformers' tokenizers name
# (VOCAB_FILES_NAMES of version 5: *.model, *.spm, bpe.codes, prophetnet.tokenizer, ...).
LOADED = (
    ".safetensors", ".json", ".txt", ".jinja",
    ".model", ".spm", ".codes", ".bpe", ".tiktoken", ".tokenizer", ".vocab",
)  # fmt: skip
OWN_MODULES = re.compile(r"sentence_transformers\.[\w.]+$")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# Configuration files that can name code of a model.
NAMES_CODE = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)
TEMPLATES = "additional_chat_templates"


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
    """The relative names of the files that a model is loaded from, sorted as paths are.

    Those are the folder's own and its modules'; other forms of the weights (onnx/, openvino/),
    checkpoints of a training and read-me files are never opened, and not stored either.
    """
    found: set[Path] = set()
    for part in (*loaded_folders(folder), folder / TEMPLATES):
        if part.is_dir():
            found.update(p for p in part.iterdir() if p.suffix in LOADED and p.is_file())
    names = [path.relative_to(folder) for path in sorted(found)]
    return [name.as_posix() for name in names if not any(p.startswith(".") for p in name.parts)]


def loaded_folders(folder: Path) -> list[Path]:
    """The folder, and those of the modules that its modules.json and router_config.json list."""
    found = [folder]
    listed = folder / "modules.json"
    for module in module_list(listed) if listed.is_file() else ():
        found.extend(_with_routes(_within(folder, str(module.get("path") or ""))))
    return list(dict.fromkeys(found))


def _weights_at_top(folder: Path) -> bool:
    """Whether a module, or the whole model, keeps its weights in the folder itself."""
    listed = folder / "modules.json"
    return not listed.is_file() or any(not module.get("path") for module in module_list(listed))


def _with_routes(folder: Path) -> list[Path]:
    """A module's folder, and those of a Router's own modules."""
    file = folder / "router_config.json"
    if not file.is_file():
        return [folder]
    types = read_json(file).get("types")
    return [folder, *(_within(folder, str(name)) for name in types or ())]


def _within(folder: Path, name: str) -> Path:
    """A folder within another.

    Raises:
        NightrankError: E_MODEL, where the name leads out of it.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        what = f"a module's folder lies outside the model's: {name!r:.80}"
        raise NightrankError("E_MODEL", what, str(folder), "check modules.json")
    return folder / name


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
    parts = [part for part in loaded_folders(folder) if part.is_dir()]
    weighty = parts if _weights_at_top(folder) else parts[1:]
    safe: set[Path] = set()
    for part in parts:
        for path in part.glob("*.safetensors"):
            safe.add(part)
            if fault := _fault(path):
                do = "fetch or convert the model again"
                raise NightrankError("E_MODEL", f"{path.name} {fault}", model, do)
    pickled = {
        part: path.relative_to(folder)
        for part in weighty
        for path in sorted(part.iterdir())
        if path.suffix in PICKLED
    }
    others = [name for part, name in pickled.items() if part not in safe]
    if not safe or others:
        found = f", found {others[0]}" if others else ""
        raise NightrankError(
            "E_MODEL",
            f"no .safetensors weights{found}"
            if not safe
            else f"some weights are not in safetensors: {others[0]}",
            model,
            "only safetensors are loaded; convert the weights with save_pretrained",
        )
    if (folder / "adapter_config.json").exists():
        raise NightrankError(
            "E_MODEL",
            "the folder holds an adapter (adapter_config.json) to the weights of another model",
            model,
            "merge the adapter into its model with peft's merge_and_unload, and save that",
        )
    for path in (part / name for part in parts for name in NAMES_CODE):
        if path.is_file() and "auto_map" in read_json(path):
            raise NightrankError(
                "E_MODEL",
                f"the model asks to run its own code (auto_map in {path.name})",
                model,
                "remote code is never run; use a model of an architecture that transformers has",
            )
    if (path := folder / "modules.json").is_file():
        for module in module_list(path):
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


def module_list(path: Path) -> list[dict[str, Any]]:
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
        "allow_patterns": [f"*{suffix}" for suffix in LOADED],
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
