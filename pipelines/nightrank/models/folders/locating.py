"""Finds a model's folder by its name in the configuration: a local path, or a hub id."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from nightrank.errors import NightrankError
from nightrank.models.folders.files import LOADED_SUFFIXES
from nightrank.models.folders.safety import require_safe

REVISION = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class ModelFolder(NamedTuple):
    """A folder on this machine with a model's files.

    Attributes:
        path: the folder.
        commit: of the hub, "" for a plain folder.
    """

    path: Path
    commit: str


def locate(model: str, revision: str | None) -> ModelFolder:
    """The local folder of a model that is neither built in nor a toy.

    Args:
        model: a folder, or a hub id ``owner/name``, which is downloaded unless it is cached.
        revision: the 40-hex commit of a hub id.

    Raises:
        NightrankError: E_MODEL, where there is no such model or it is not safe to load.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return ModelFolder(require_safe(folder.resolve(), model), "")
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
    return ModelFolder(require_safe(_download(model, revision), model), revision)


def _download(model: str, revision: str) -> Path:
    """The hub snapshot from the local cache, else downloaded."""
    from huggingface_hub import snapshot_download

    patterns = [f"*{suffix}" for suffix in LOADED_SUFFIXES]
    download = partial(snapshot_download, model, revision=revision, allow_patterns=patterns)
    # A snapshot that is not cached raises one of several exceptions; each means: try the network.
    with suppress(Exception):
        return Path(download(local_files_only=True))
    try:
        return Path(download())
    except Exception as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NightrankError(
            "E_MODEL",
            f"cannot download {model}@{revision[:12]}: {first_line:.160}",
            "",
            "check the id, the revision and the network, or submit from a machine that has it",
        ) from None


def go_offline() -> None:
    """Keeps this process from asking a hub for anything: models come from folders alone."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    # Read once, at import; a `run` with the serial executor has planned in this same process.
    if constants := sys.modules.get("huggingface_hub.constants"):
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
