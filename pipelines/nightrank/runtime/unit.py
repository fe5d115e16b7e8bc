"""Runs one unit in the process where its worker lives: open, call, check, commit.

Bulk data never leave this process except through the store; the driver gets the small record.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from nightrank.errors import NightrankError
from nightrank.models.folders.locating import go_offline
from nightrank.models.text.batching import SPENT
from nightrank.process.home import ensure_home
from nightrank.runtime.stage import Stage, Task, Worker, WorkerSpec
from nightrank.storage.dataset import Content, Dataset, Payload, Record
from nightrank.storage.parquet import Batches
from nightrank.storage.reader import Reader
from nightrank.storage.scatter import Scatter
from nightrank.storage.store import Store, StoreSpec

# More tasks than this and planning, records and manifests cost more than they bring.
MAX_UNITS = 50_000


@dataclass(frozen=True)
class UnitSpec:
    """A stage without its tasks: what a process needs to run any of them."""

    name: str
    dataset: str
    worker: WorkerSpec
    schemas: dict[str, pa.Schema]

    @staticmethod
    def of(stage: Stage) -> UnitSpec:
        """The spec of a stage."""
        return UnitSpec(stage.name, stage.dataset, stage.worker, stage.schemas)


class UnitRunner:
    """Holds the store and the current worker; a worker is made once and kept while it serves.

    Attributes:
        loads: how often a worker was made (a model or an index loaded) rather than kept.
    """

    def __init__(self, store: StoreSpec, threads: int, folder: str) -> None:
        # Input paths are relative to the operator's working directory, not to the worker's.
        if os.path.isdir(folder):
            os.chdir(folder)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        ensure_home()
        go_offline()
        self._store = Store.open(store)
        self._threads = threads
        self._spec: WorkerSpec | None = None
        self._worker: Worker | None = None
        self.loads = 0

    def run(self, spec: UnitSpec, task: Task[Any], attempt: int) -> Record:
        """Runs one task and commits its shard."""
        started, halved = time.monotonic(), SPENT.halved
        worker = self._worker_of(spec.worker)
        payload = worker(task, Reader(self._store))
        if SPENT.halved > halved:
            payload.stats["halved_batches"] = SPENT.halved - halved
        files: dict[str, Any] = {
            name: _checked(spec, task, name, content) for name, content in payload.files.items()
        }
        dataset = Dataset(self._store, spec.dataset)
        checked = Payload(files, payload.stats)
        return dataset.commit(task.shard, attempt, checked, lambda: time.monotonic() - started)

    def probe(self, spec: UnitSpec, task: Task[Any]) -> int:
        """Tries the part of a task that `task.only` names, commits nothing; all inputs' count."""
        return self._worker_of(spec.worker)(task, Reader(self._store)).inputs

    def _worker_of(self, spec: WorkerSpec) -> Worker:
        if self._worker is None or self._spec != spec:
            self._worker = None  # Frees the old one's memory before the new one is loaded.
            self._worker = spec.make(spec.settings, self._threads)
            self._spec = spec
            self.loads += 1
        return self._worker


def _checked(spec: UnitSpec, task: Task[Any], name: str, content: Any) -> Any:
    """The content, refused where its schema is not the declared one."""
    if callable(content):
        return lambda: _checked(spec, task, name, content())
    wanted = spec.schemas.get(name)
    found = _schema(content)
    if found is not None and (wanted is None or not found.equals(wanted)):
        expected = "no table" if wanted is None else ", ".join(map(str, wanted))
        what = f"expected schema [{expected}], found [{', '.join(map(str, found))}]"
        raise NightrankError("E_BUG", what, f"{spec.name}, {task.shard}, file {name}")
    return content


def _schema(content: Content) -> pa.Schema | None:
    if isinstance(content, Scatter):
        return content.table.schema
    if isinstance(content, pa.Table | Batches):
        return content.schema
    return None
