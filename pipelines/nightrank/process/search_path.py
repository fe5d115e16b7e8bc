"""Where modules are searched for: never in the user's working directory.

`python -m`, `PYTHONPATH=.` and Ray each put the working directory before the installed packages,
where a user's own `torch.py` or `config/` takes the place of a module of the same name.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# The directory that holds this package: site-packages, or `pipelines/` of a checkout.
PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])


def leave_out_working_directory() -> None:
    """Takes the working directory off `sys.path`, and off PYTHONPATH for processes to come.

    It stays where this package itself is found in it. Modules that are loaded stay loaded.
    """
    sys.path[:] = _elsewhere(sys.path)
    if given := os.environ.get("PYTHONPATH"):
        os.environ["PYTHONPATH"] = os.pathsep.join(_elsewhere(given.split(os.pathsep)))


def holds_this_package(folder: str) -> bool:
    """Whether a folder is where this package is found."""
    return os.path.realpath(folder) == PACKAGE_ROOT


def _elsewhere(folders: list[str]) -> list[str]:
    """The folders but for the working directory; an empty name is another name of it."""
    here = os.path.realpath(os.curdir)
    if here == PACKAGE_ROOT:
        return folders
    return [folder for folder in folders if os.path.realpath(folder or os.curdir) != here]
