"""The module search path, without the user's working directory.

`python -m`, `PYTHONPATH=.` and Ray put the working directory before the installed packages, so that
a user's own `torch.py` or `config/` replaces a module of the same name.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# The directory that holds this package: site-packages, or `pipelines/` of a checkout.
PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])


def leave_out_working_directory() -> None:
    """Removes the working directory from `sys.path`, and from PYTHONPATH for child processes.

    It is kept if it contains this package. Modules that are already loaded stay loaded.
    """
    sys.path[:] = _elsewhere(sys.path)
    if python_path := os.environ.get("PYTHONPATH"):
        os.environ["PYTHONPATH"] = os.pathsep.join(_elsewhere(python_path.split(os.pathsep)))


def holds_this_package(folder: str) -> bool:
    """Whether a folder is the one that contains this package."""
    return os.path.realpath(folder) == PACKAGE_ROOT


def _elsewhere(folders: list[str]) -> list[str]:
    """The folders without the working directory, which an empty name means too."""
    here = os.path.realpath(os.curdir)
    if here == PACKAGE_ROOT:
        return folders
    return [folder for folder in folders if os.path.realpath(folder or os.curdir) != here]
