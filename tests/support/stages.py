"""A stage that squares numbers, with units that fail in the ways a test asks for."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa

from nightrank.errors import NightrankError, UnfitProcessError
from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.storage.dataset import Payload
from nightrank.storage.reader import Reader

SCHEMA = pa.schema([("value", pa.int64()), ("worker", pa.int64())])


class Square:
    """Squares a number; can be told to fail, die, hang or return the wrong schema."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self.folder = Path(config["folder"])
        self.calls, self.unfit = 0, False

    def _times(self, name: str) -> int:
        """How often this trouble has come up, over all processes."""
        with open(self.folder / name, "a") as file:
            file.write("x")
        return (self.folder / name).stat().st_size

    def __call__(self, task: Task, read: Reader) -> Payload:
        value, trouble = task.args["value"], task.args.get("trouble", "")
        if trouble == "raise once" and self._times(task.shard) == 1:
            raise RuntimeError("flaky")
        if trouble == "raise always":
            self._times(task.shard)
            raise RuntimeError("never works")
        if trouble == "refuse":
            self._times(task.shard)
            raise NightrankError("E_SCHEMA", "bad input", "row 1", "fix it")
        if trouble == "unfit once" and self._times(task.shard) == 1:
            self.unfit = True
            raise UnfitProcessError("E_CLUSTER", "the device failed")
        if self.unfit:
            raise RuntimeError("given work after its device had failed")
        if trouble == "die once" and self._times(task.shard) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == "die always":
            self._times(task.shard)
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == "stop once" and self._times(task.shard) == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        if trouble == "wrong schema":
            return Payload({"rows": pa.table({"other": [1]})})
        self.calls += 1
        row = {"value": [value * value], "worker": [os.getpid()]}
        return Payload({"rows": pa.table(row, schema=SCHEMA)}, {"calls": self.calls})


def stage(folder: Path, troubles: dict[int, str], count: int = 12, affinity: bool = False) -> Stage:
    tasks = tuple(
        Task(
            f"part-{i:02d}",
            {"value": i, "trouble": troubles.get(i, "")},
            affinity=f"group-{i % 3}" if affinity else "",
        )
        for i in range(count)
    )
    worker = WorkerSpec(Square, {"folder": str(folder)})
    return Stage("square", 1, f"{folder.name}/squares", {}, tasks, worker, {"rows": SCHEMA})
