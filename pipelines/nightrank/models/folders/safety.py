"""Which folders are loaded at all: weights in whole safetensors files, and no code.

A folder is trusted only as data. Imports neither torch nor transformers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from nightrank.errors import NightrankError
from nightrank.models.folders.files import loaded_folders, module_list, read_json

OWN_MODULES = re.compile(r"sentence_transformers\.[\w.]+$")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# Configuration files that can name code of a model.
CODE_NAMING_FILES = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)


def require_safe(folder: Path, model: str) -> Path:
    """The folder, unless it has weights in pickles only, or brings or names code.

    A folder that holds both forms of weights is read through its safetensors.

    Args:
        folder: the model's files.
        model: its name in the configuration, for errors.

    Raises:
        NightrankError: E_MODEL.
    """
    parts = [part for part in loaded_folders(folder) if part.is_dir()]
    _require_safetensors(folder, parts, model)
    if (folder / "adapter_config.json").exists():
        raise NightrankError(
            "E_MODEL",
            "the folder holds an adapter (adapter_config.json) to the weights of another model",
            model,
            "merge the adapter into its model with peft's merge_and_unload, and save that",
        )
    _require_no_code(folder, parts, model)
    return folder


def _require_safetensors(folder: Path, parts: list[Path], model: str) -> None:
    """Refuses weights that are not in safetensors, and damaged safetensors files."""
    safe: set[Path] = set()
    for part in parts:
        for path in part.glob("*.safetensors"):
            safe.add(part)
            if fault := _fault(path):
                do = "download or convert the model again"
                raise NightrankError("E_MODEL", f"{path.name} {fault}", model, do)
    pickles = {
        part: path.relative_to(folder)
        for part in (parts if _weights_at_top(folder) else parts[1:])
        for path in sorted(part.iterdir())
        if path.suffix in PICKLE_SUFFIXES
    }
    unsafe = [name for part, name in pickles.items() if part not in safe]
    if safe and not unsafe:
        return
    what = f"some weights are not in safetensors: {unsafe[0]}" if safe else _no_weights(unsafe)
    do = "only safetensors are loaded; convert the weights with save_pretrained"
    raise NightrankError("E_MODEL", what, model, do)


def _no_weights(pickles: list[Path]) -> str:
    return "no .safetensors weights" + (f", found {pickles[0]}" if pickles else "")


def _weights_at_top(folder: Path) -> bool:
    """Whether a module, or the whole model, keeps its weights in the folder itself."""
    listed = folder / "modules.json"
    return not listed.is_file() or any(not module.get("path") for module in module_list(listed))


def _require_no_code(folder: Path, parts: list[Path], model: str) -> None:
    """Refuses a folder that brings its own code, or names modules of another package."""
    for path in (part / name for part in parts for name in CODE_NAMING_FILES):
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
                    f"the model asks for a module of another package: {module.get('type')!r:.80}",
                    model,
                    "only modules of sentence-transformers are loaded",
                )


def _fault(path: Path) -> str:
    """What is wrong with a safetensors file, by its header alone; empty where nothing is.

    Libraries initialise a missing weight at random, so a truncated file would load without an
    error.
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
