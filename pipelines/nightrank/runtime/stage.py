"""What a stage is: a value. Who executes it, and where, is not its business."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa

from nightrank.storage.dataset import Payload
from nightrank.storage.reader import Reader

# Workers of one pool share processes. FAISS (`index`) and torch (`model`) never meet in one
# process: their GPU builds may bring two CUDA majors.
Pool = Literal["general", "index", "model"]


@dataclass(frozen=True)
class Task:
    """The work that yields one shard.

    Attributes:
        shard: the shard's name, unique in its dataset and made by this program.
        args: what the worker needs: plain data and file references, small.
        shared: what other tasks need too, the same object in each: it is sent to a process once,
            as long as the next task there has it too.
        affinity: tasks of one affinity go to the same worker where possible (it keeps what it
            has opened).
        only: the inputs (start, stop) that go through the model, where they are tried by parts.
        aside: positions of inputs that never do, since they kill their worker.
    """

    shard: str
    args: dict[str, Any]
    affinity: str = ""
    only: tuple[int, int] | None = None
    aside: tuple[int, ...] = ()
    shared: Any = None

    def chosen(self, count: int) -> np.ndarray:
        """bool[count]: which of so many inputs go through the model."""
        chosen = np.ones(count, bool)
        if self.only:
            chosen[: self.only[0]] = chosen[self.only[1] :] = False
        chosen[list(self.aside)] = False
        return chosen


class Worker(Protocol):
    """The process-resident callable that does tasks; knows no Ray, no commits and no progress."""

    def __call__(self, task: Task, read: Reader) -> Payload:
        """Does one task with the files that `read` opens."""
        ...


@dataclass(frozen=True)
class WorkerSpec:
    """How to make a worker: a class whose constructor takes (config, threads).

    Attributes:
        make: the class; the expensive thing (model, index) is loaded in its constructor.
        config: plain data, enough to tell two workers apart.
    """

    make: Callable[[dict[str, Any], int], Worker]
    config: dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline, ready to run.

    Attributes:
        name: a verb.
        version: raised when the stage's meaning changes; part of its dataset's identity.
        dataset: folder of its dataset in the lake; holds the fingerprint where settings matter.
        identity: what the dataset was made of, kept in the manifest.
        tasks: one per shard.
        worker: how to make the worker.
        schemas: schema of every table that the worker hands back; checked before a commit.
        pool: which worker processes run it.
        divisible: whether its worker follows `Task.only` and `Task.aside`.
    """

    name: str
    version: int
    dataset: str
    identity: dict[str, Any]
    tasks: tuple[Task, ...]
    worker: WorkerSpec
    schemas: dict[str, pa.Schema] = field(default_factory=dict)
    pool: Pool = "general"
    divisible: bool = False

    @property
    def kind(self) -> str:
        """The stage's file, e.g. `train_index`: what operators call it in --from and --to."""
        return self.worker.make.__module__.rpartition(".")[2]
