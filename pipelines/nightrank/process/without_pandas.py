"""Starting a process without what it has no use for."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pyarrow as pa


class _NoPandas:
    """An import hook that finds no pandas."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


def without_pandas() -> None:
    """Keeps Arrow from importing pandas at its first conversion, wherever that is installed.

    It took 0.3 to 0.4 s of the 1.4 s that a worker spent in imports. Arrow looks for it once, and
    again where somebody asks for pandas (`to_pandas`, `from_pandas`): that goes on working.
    """
    if "pandas" not in sys.modules:
        sys.meta_path.insert(0, _NoPandas)  # type: ignore[arg-type]
        try:
            pa.array([None])
            importlib.import_module("pyarrow.dataset")  # Looks for it again.
        finally:
            sys.meta_path.remove(_NoPandas)  # type: ignore[arg-type]
