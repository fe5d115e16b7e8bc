"""Counts the documents of the published corpus that are not in another corpus, for the gate.

In: ids of both, by the hash of the id, and tombstones. Out: counts and some ids, in the records.
Cardinality: one shard per run of id buckets. Knows nothing about: texts, content, limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.datasets.current_corpus import ROWS_PER_TASK, CurrentCorpus, ordinals_in
from nightrank.runtime.stage import Declaration, Task
from nightrank.storage import buckets, ordinals
from nightrank.storage.dataset import FileRef, Payload, shard_names
from nightrank.storage.ranges import Range
from nightrank.storage.reader import Reader

EXAMPLES = 3


@dataclass(frozen=True)
class Inputs:
    """The published corpus and the one that is to follow it."""

    before: CurrentCorpus
    after: CurrentCorpus


@dataclass(frozen=True)
class CorpusPart:
    """What one corpus has of a run of id buckets: ids by segment, and tombstones."""

    ids: list[buckets.Part]
    tombstones: list[tuple[FileRef, Sequence[Range]]]


@dataclass(frozen=True)
class Args:
    """A run of id buckets of both."""

    before: CorpusPart
    after: CorpusPart


def tasks(inputs: Inputs) -> list[Task[Args]]:
    """One task per run of buckets of about four million ids."""
    both = inputs.before, inputs.after
    rows = sum(manifest.rows("ids") for corpus in both for manifest in corpus.documents.values())
    runs = buckets.runs(rows, ROWS_PER_TASK)
    return [
        Task(name, Args(_part(inputs.before, run), _part(inputs.after, run)))
        for name, run in zip(shard_names(len(runs)), runs, strict=True)
    ]


def _part(corpus: CurrentCorpus, run: range) -> CorpusPart:
    numbered = [
        (n, ref) for n, manifest in corpus.documents.items() for ref in manifest.files("ids")
    ]
    tombstones = buckets.parts(enumerate(corpus.tombstone_files()), run)
    return CorpusPart(buckets.parts(numbered, run), [(p.ref, p.ranges) for p in tombstones])


class Worker:
    """Compares some buckets."""

    def __init__(self, settings: None, threads: int) -> None:
        pass

    def __call__(self, task: Task[Args], read: Reader) -> Payload:
        """Ids that are in the corpus before and not after."""
        before, after = (_ids(part, read) for part in (task.args.before, task.args.after))
        removed = before.filter(pc.invert(pc.is_in(before, after)))
        examples = removed.slice(0, EXAMPLES).to_pylist()
        return Payload({}, {"before": len(before), "removed": len(removed), "examples": examples})


def _ids(corpus: CorpusPart, read: Reader) -> pa.Array:
    """Ids (string) of the documents without a tombstone."""
    tombstoned = ordinals_in(corpus.tombstones, read)
    ids = [pa.array([], pa.string())]
    for part in corpus.ids:
        table = part.read(read, "id")
        places = ordinals.pack(part.number, 0, table["row"].to_numpy())
        current = table["id"].filter(pa.array(~np.isin(places, tombstoned)))
        ids.append(current.combine_chunks())
    return pa.concat_arrays(ids)


STAGE = Declaration(
    name="removals",
    version=1,
    pool="general",
    scales_with="documents",
    tasks=tasks,
    worker=Worker,
    settings=lambda inputs: None,
    schemas=lambda inputs: {},
)
