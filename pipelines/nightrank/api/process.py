"""The caller's process, e.g. a notebook: kept as it was, and where progress is printed."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from nightrank.errors import NightrankError
from nightrank.process.home import ensure_home
from nightrank.runtime.progress import Progress

# What a unit of work sets in its process, which is the caller's with `cluster.executor: serial`.
SET_BY_UNITS = (
    "OMP_NUM_THREADS",
    "TOKENIZERS_PARALLELISM",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
)


@contextlib.contextmanager
def environment_kept() -> Iterator[None]:
    """Restores the environment variables, and the model hub's offline switch, at the end."""
    ensure_home()
    before = {name: os.environ.get(name) for name in SET_BY_UNITS}
    constants = sys.modules.get("huggingface_hub.constants")
    offline = getattr(constants, "HF_HUB_OFFLINE", None)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if constants is not None:
            constants.HF_HUB_OFFLINE = offline  # type: ignore[attr-defined]


def progress_of(wanted: bool | TextIO) -> Progress:
    """Progress on a stream; True takes standard error, in a notebook standard output.

    Notebooks show standard error as a failure, in red.
    """
    if isinstance(wanted, bool):
        return Progress(sys.stdout if in_notebook() else sys.stderr, quiet=not wanted)
    return Progress(wanted)


def in_notebook() -> bool:
    """Whether this is the process of a Jupyter kernel."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def refuse_unpickling() -> None:
    """Refuses an environment in which Ray Data would unpickle objects in Parquet files.

    Raises:
        NightrankError: E_CONFIG.
    """
    for name in sorted(os.environ):
        if name.startswith("RAY_DATA_AUTOLOAD_"):
            what = f"{name} is set: Ray would run code that is stored in data files"
            raise NightrankError("E_CONFIG", what, "environment", f"unset {name}")
