"""Counts the documents of the published corpus that are not in another corpus, for the gate.

In: ids of both, by the hash of the id, and tombstones. Out: counts and some ids, in the records.
Cardinality: one shard per run of id buckets. Knows nothing about: texts, content, limits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.datasets.current_corpus import ROWS_PER_TASK, CurrentCorpus, ordinals_in
from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.storage import buckets, ordinals
from nightrank.storage.dataset import Payload, shard_names
from nightrank.storage.fingerprint import fingerprint
from nightrank.storage.reader import Reader

VERSION = 1
EXAMPLES = 3


def plan(before: CurrentCorpus, after: CurrentCorpus) -> tuple[Task, ...]:
    """One task per run of buckets of about four million ids."""
    sides = {"before": before, "after": after}
    rows = sum(m.rows("ids") for side in sides.values() for m in side.documents.values())
    runs = buckets.runs(rows, ROWS_PER_TASK)
    tasks = []
    for name, run in zip(shard_names(len(runs)), runs, strict=True):
        args: dict[str, Any] = {}
        for side, corpus in sides.items():
            numbered = [(n, r) for n, m in corpus.documents.items() for r in m.files("ids")]
            dead = buckets.parts(enumerate(corpus.dead()), run)
            args[side] = buckets.parts(numbered, run)
            args[f"{side}_dead"] = [(part.ref, part.ranges) for part in dead]
        tasks.append(Task(name, args))
    return tuple(tasks)


class Worker:
    """Compares some buckets."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        pass

    def __call__(self, task: Task, read: Reader) -> Payload:
        """Ids that are in the corpus before and not after."""
        before, after = (self._living(task, side, read) for side in ("before", "after"))
        removed = before.filter(pc.invert(pc.is_in(before, after)))
        examples = removed.slice(0, EXAMPLES).to_pylist()
        return Payload({}, {"before": len(before), "removed": len(removed), "examples": examples})

    def _living(self, task: Task, side: str, read: Reader) -> pa.Array:
        """Ids (string) of one side without a tombstone."""
        dead = ordinals_in(task.args[f"{side}_dead"], read)
        found = [pa.array([], pa.string())]
        for part in task.args[side]:
            table = part.read(read, "id")
            places = ordinals.pack(part.number, 0, table["row"].to_numpy())
            living = table["id"].filter(pa.array(~np.isin(places, dead)))
            found.append(living.combine_chunks())
        return pa.concat_arrays(found)


def stage(folder: str, before: CurrentCorpus, after: CurrentCorpus) -> Stage:
    """Assembles the stage; its dataset is named after what is compared."""
    identity = {
        name: {
            "documents": {str(n): made.path for n, made in side.documents.items()},
            "tombstones": [made.path for made in side.tombstones],
        }
        for name, side in (("before", before), ("after", after))
    }
    return Stage(
        name="removals",
        version=VERSION,
        dataset=f"{folder}/removals-{fingerprint(identity)}",
        identity=identity,
        tasks=plan(before, after),
        worker=WorkerSpec(Worker, {}),
    )
