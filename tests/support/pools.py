"""A stage whose units report the process they run in and what Ray gave it."""

from __future__ import annotations

import os
from typing import Any

import pyarrow as pa
import ray

from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.storage.dataset import Payload
from nightrank.storage.reader import Reader

SCHEMA = pa.schema([("process", pa.int64()), ("threads", pa.int64()), ("held", pa.string())])


class Where:
    """Says which process it is in and what Ray has given it."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self.threads = threads

    def __call__(self, task: Task, read: Reader) -> Payload:
        held = ray.get_runtime_context().get_assigned_resources()
        row = {
            "process": [os.getpid()],
            "threads": [self.threads],
            "held": [str(sorted(held.items()))],
        }
        return Payload({"rows": pa.table(row, schema=SCHEMA)})


def stage(name: str, pool: Any = "general", units: int = 6) -> Stage:
    tasks = tuple(Task(f"part-{i:02d}", {}) for i in range(units))
    return Stage(name, 1, name, {}, tasks, WorkerSpec(Where, {}), {"rows": SCHEMA}, pool=pool)
