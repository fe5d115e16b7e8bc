"""Facts about the machine, tables, JSON, and the import path of workers, for all benchmarks."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """The machine and the versions that every result names."""
    import torch

    return {
        "machine": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def let_workers_import() -> None:
    """Lets Ray's workers import `benchmarks`: they do not search the working directory.

    Call it before Ray starts.
    """
    folders = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, folders))


def table(titles: list[str], lines: list[list[str]]) -> str:
    """A Markdown table."""
    rows = [titles, ["---"] * len(titles), *lines]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def as_json(result: dict[str, Any]) -> str:
    """JSON with one line for each key and each collection, which has thousands of figures."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rounded(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [rounded(inner) for inner in value]
        return round(value, 5) if isinstance(value, float) else value

    plain = rounded(result)
    parts = [f"{json.dumps(n)}: {json.dumps(v)}" for n, v in plain.pop("collections").items()]
    head = [f" {json.dumps(name)}: {json.dumps(value)}," for name, value in plain.items()]
    lines = ["{", *head, ' "collections": {', ",\n".join(f"  {part}" for part in parts), " }", "}"]
    return "\n".join(lines) + "\n"
