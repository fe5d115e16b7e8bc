"""What a stage is: a declaration, and the declaration applied to its inputs.

Who executes a stage, and where, is not its business. The folder of its dataset follows from the
declaration's name and version and from the identity of its inputs: no other file writes a path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from nightrank.runtime.identity import identity_of
from nightrank.storage.dataset import Manifest, Payload
from nightrank.storage.fingerprint import fingerprint
from nightrank.storage.reader import Reader

# Workers of one pool share processes. FAISS (`index`) and torch (`model`) never meet in one
# process: their GPU builds may bring two CUDA majors.
Pool = Literal["general", "index", "model"]
# What a stage's cost is proportional to.
Quantity = Literal["input rows", "documents", "texts", "queries", "lists", "pairs", "one"]

Args = TypeVar("Args")
Inputs = TypeVar("Inputs")


@dataclass(frozen=True)
class Task(Generic[Args]):
    """The work that yields one shard.

    Attributes:
        shard: the shard's name, unique in its dataset and made by this program.
        args: what the worker needs: plain data and file references, small.
        affinity: tasks of one affinity go to the same worker where possible (it keeps what it
            has opened).
        only: the inputs (start, stop) that go through the model, where they are tried by parts.
        aside: positions of inputs that never do, since they kill their worker.
        shared: what other tasks need too, the same object in each: it is sent to a process once,
            as long as the next task there has it too.
    """

    shard: str
    args: Args
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

    def __call__(self, task: Task[Any], read: Reader) -> Payload:
        """Does one task with the files that `read` opens."""
        ...


@dataclass(frozen=True)
class WorkerSpec:
    """How to make a worker: a class whose constructor takes (settings, threads).

    Attributes:
        make: the class; the expensive thing (model, index) is loaded in its constructor or later.
        settings: plain data; a worker serves all tasks of equal specs.
    """

    make: Callable[[Any, int], Worker]
    settings: Any = None


@dataclass(frozen=True)
class Stage:
    """One step of a run, ready to be executed.

    Attributes:
        name: as operators see it, e.g. `embed documents`.
        version: the declaration's.
        dataset: folder of its dataset in the lake.
        identity: what the dataset is made of, kept in the manifest.
        tasks: one per shard.
        worker: how to make the worker.
        schemas: schema of every table that the worker hands back; checked before a commit.
        pool: which worker processes run it.
        divisible: whether its worker follows `Task.only` and `Task.aside`.
        kind: the declaration's name: what `--from` and `--to` take.
    """

    name: str
    version: int
    dataset: str
    identity: dict[str, Any]
    tasks: tuple[Task[Any], ...]
    worker: WorkerSpec
    schemas: dict[str, pa.Schema] = field(default_factory=dict)
    pool: Pool = "general"
    divisible: bool = False
    kind: str = ""


class Pending(Manifest):
    """A dataset that does not exist yet: its path is known, its shards are not."""

    @property
    def empty(self) -> bool:
        """Not known; it is taken to have shards."""
        return False


@dataclass(frozen=True)
class Declaration(Generic[Inputs]):
    """A stage as its file declares it.

    Attributes:
        name: what operators call it in `--from` and `--to`; the first part of its folder's name.
        version: raised when the meaning of its output changes: it then computes everything again,
            and so does every stage that reads it.
        pool: which worker processes run it.
        scales_with: what its cost is proportional to.
        tasks: the tasks for some inputs, in the order of the shards.
        worker: the worker's class.
        settings: what the worker's constructor gets, for some inputs.
        schemas: schema of every table that the worker hands back, for some inputs.
        divisible: whether the worker follows `Task.only` and `Task.aside`.
    """

    name: str
    version: int
    pool: Pool
    scales_with: Quantity
    tasks: Callable[[Inputs], Sequence[Task[Any]]]
    worker: Callable[[Any, int], Worker]
    settings: Callable[[Inputs], Any]
    schemas: Callable[[Inputs], dict[str, pa.Schema]]
    divisible: bool = False

    def dataset(self, parent: str, inputs: Inputs) -> str:
        """The folder of the dataset under `parent`: name and fingerprint."""
        made_of = {"version": self.version, "inputs": identity_of(inputs)}
        return f"{parent}/{self.name}-{fingerprint(made_of)}"

    def pending(self, parent: str, inputs: Inputs) -> Manifest:
        """Stands in for the dataset's manifest where only its path matters."""
        path = self.dataset(parent, inputs)
        return Pending(path, self.name, self.version, identity_of(inputs), ())

    def stage(self, parent: str, inputs: Inputs, label: str = "", dataset: str = "") -> Stage:
        """The declaration applied to inputs.

        Args:
            parent: folder that the dataset is put under: a segment's, the queries' or the plan's.
            inputs: what it reads and by which settings.
            label: what operators see, where the name alone is not enough.
            dataset: another folder than the derived one.
        """
        return Stage(
            name=label or self.name.replace("_", " "),
            kind=self.name,
            version=self.version,
            dataset=dataset or self.dataset(parent, inputs),
            identity=identity_of(inputs),
            tasks=tuple(self.tasks(inputs)),
            worker=WorkerSpec(self.worker, self.settings(inputs)),
            schemas=self.schemas(inputs),
            pool=self.pool,
            divisible=self.divisible,
        )
