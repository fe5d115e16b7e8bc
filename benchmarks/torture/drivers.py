"""Hundreds of driver processes, forked from a parent that has only imported the program.

A driver needs two seconds for its imports, which is more than ranking a small collection takes.
Each driver is a process of its own that runs the whole program, from its command line to its exit
code; only the imports are shared.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.torture import crash_points

REPOSITORY = Path(__file__).resolve().parents[2]
# Imports of a run on toy models; none of them starts a thread.
IMPORTED = (
    "nightrank.cli.app",
    "nightrank.config.file",
    "nightrank.flow.offline_rerank",
    "nightrank.generations.planning",
    "nightrank.generations.results",
    "nightrank.generations.verification",
    "nightrank.models.toy",
    "nightrank.retrieval.faiss_index",
    "nightrank.runtime.executor",
    "nightrank.runtime.budget",
    "nightrank.runtime.progress",
    "nightrank.evaluation.report",
    "pyarrow.parquet",
    "pyarrow.json",
)


class Drivers:
    """Starts drivers one after another; use several instances for drivers at the same time."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.torture.drivers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def start(self, *arguments: str, **disturbances: dict[str, Any]) -> int:
        """Starts `nightrank *arguments`, or a function.

        Args:
            *arguments: a verb and what follows it, or `module:function` and its arguments.
            **disturbances: functions of `crash_points` that it calls first, by name, with their
                arguments, e.g. `end_at={"root": root, "name": "link record", "number": 3}`.

        Returns:
            The process's id.
        """
        assert self._parent.stdin and self._parent.stdout
        print(json.dumps([arguments, disturbances]), file=self._parent.stdin, flush=True)
        return int(self._parent.stdout.readline())

    def wait(self) -> tuple[int, str]:
        """Waits for the driver: exit code (negative for a signal) and last line on stderr."""
        assert self._parent.stdout
        code, last_line = json.loads(self._parent.stdout.readline())
        return code, last_line

    def run(self, *arguments: str, **disturbances: dict[str, Any]) -> tuple[int, str]:
        """`start` and `wait`."""
        self.start(*arguments, **disturbances)
        return self.wait()

    def close(self) -> None:
        """Ends the parent process."""
        assert self._parent.stdin
        self._parent.stdin.close()
        self._parent.wait()


def _drive(arguments: list[str], disturbances: dict[str, Any], stderr: int) -> None:
    """Runs a verb or a function in this process and exits with its code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(stderr, 2)
    code = 70
    try:
        for name, settings in disturbances.items():
            getattr(crash_points, name)(**settings)
        code = _call(arguments)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _call(arguments: list[str]) -> int:
    """The exit code of a verb, or of a function that returned."""
    from nightrank.cli.app import app
    from nightrank.cli.terminal import guarded

    module, _, function = arguments[0].partition(":")
    if function:
        called = getattr(importlib.import_module(module), function)
        return guarded(lambda **_: called(*arguments[1:]))
    sys.argv = ["nightrank", *arguments]
    return guarded(app)


def main() -> None:
    """Forks a driver for each line of stdin; prints its process id, then how it ended."""
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        arguments, disturbances = json.loads(line)
        reader, writer = os.pipe()
        if (process := os.fork()) == 0:
            os.close(reader)
            _drive(arguments, disturbances, writer)
        os.close(writer)
        print(process, flush=True)
        with open(reader, errors="replace") as file:
            lines = file.read().splitlines()
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        print(json.dumps([code, lines[-1] if lines else ""]), flush=True)


if __name__ == "__main__":
    main()
