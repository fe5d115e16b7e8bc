"""Nightrank: offline retrieve-then-rerank, from a corpus and queries to ranked Parquet.

`read_results` is the way in for analytics; everything else is run by the jobs.
"""

from importlib import import_module
from typing import Any

__all__ = ["read_results"]


def __getattr__(name: str) -> Any:
    """Imports on first use, so that `import nightrank` stays cheap."""
    if name == "read_results":
        return import_module("nightrank.generations.results").read_results
    raise AttributeError(f"module 'nightrank' has no attribute {name!r}")
