"""Merges segments: the documents of several, without those that are tombstoned, as one.

In: documents of the segments, tombstones. Out: `documents` and `ids` as `segment` writes them, and
`origin`, where every document was before. Cardinality: one shard per run of document rows. Knows
nothing about: tokens, vectors, scores; `copy` takes those along.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from nightrank.config.schema import Corpus
from nightrank.datasets.current_corpus import tombstoned_ordinals
from nightrank.datasets.row_schemas import check_shards, documents_schema, ids, ids_schema
from nightrank.runtime.identity import outside_identity
from nightrank.runtime.stage import Declaration, Task
from nightrank.storage import ordinals, schemas
from nightrank.storage.dataset import FileRef, Manifest, Payload, shard_names
from nightrank.storage.reader import Reader


@dataclass(frozen=True)
class Inputs:
    """What is merged.

    Attributes:
        documents: of the segments, by their numbers.
        tombstones: files of them.
        current_rows: rows of the documents that are not tombstoned.
        shard_rows: wanted rows of a shard; None: chosen by their number.
        source: the section of the config.
    """

    documents: dict[int, Manifest]
    tombstones: list[FileRef]
    current_rows: int
    shard_rows: int | None
    source: Corpus = outside_identity()


@dataclass(frozen=True)
class Args:
    """The number of a document shard, and its runs: (key of the old shard, file, rows from, to)."""

    shard: int
    runs: list[tuple[int, FileRef, int, int]]
    tombstones: list[FileRef]


def tasks(inputs: Inputs) -> list[Task[Args]]:
    """Runs of rows, tombstoned ones among them; sized so that the others fill a shard."""
    files = [
        (number << ordinals.SHARD_BITS | shard, ref)
        for number, documents in sorted(inputs.documents.items())
        for shard, ref in enumerate(documents.files("documents"))
    ]
    total = sum(ref.rows for _, ref in files)
    size = ordinals.shard_rows(inputs.current_rows, inputs.shard_rows)
    count = -(-inputs.current_rows // size)
    check_shards(count)
    ends = np.cumsum([ref.rows for _, ref in files]).tolist()
    units = []
    for i, name in enumerate(shard_names(count)):
        start, stop = total * i // count, total * (i + 1) // count
        runs = []
        for (key, ref), end in zip(files, ends, strict=True):
            low, high = max(start, end - ref.rows), min(stop, end)
            if low < high:
                runs.append((key, ref, low - (end - ref.rows), high - (end - ref.rows)))
        units.append(Task(name, Args(i, runs, inputs.tombstones)))
    return units


class Worker:
    """Copies rows without a tombstone into one document shard."""

    def __init__(self, settings: Corpus, threads: int) -> None:
        self._schema = documents_schema(settings)

    def __call__(self, task: Task[Args], read: Reader) -> Payload:
        """Reads only the row groups that hold the run's rows."""
        tombstoned = tombstoned_ordinals(task.args.tombstones, read)
        pieces, origins = [self._schema.empty_table()], [np.zeros(0, np.int64)]
        for key, ref, low, high in task.args.runs:
            for first, group in read.slices(ref, low, high):
                begin, end = max(low - first, 0), min(high - first, group.num_rows)
                rows = np.arange(first + begin, first + end, dtype=np.int64)
                places = (np.int64(key) << ordinals.ROW_BITS) | rows
                current = ~np.isin(places, tombstoned)
                taken = group.slice(begin, end - begin).filter(pa.array(current))
                pieces.append(taken.select(self._schema.names).cast(self._schema))
                origins.append(places[current])
        table, origin = pa.concat_tables(pieces).combine_chunks(), np.concatenate(origins)
        files = {
            "documents": table,
            "ids": ids(table, task.args.shard),
            "origin": pa.table([pa.array(origin)], schema=schemas.TOMBSTONES),
        }
        keys = np.unique(ordinals.shard_key(origin)).tolist()
        return Payload(dict(files), {"rate_rows": table.num_rows, "keys": keys})


STAGE = Declaration(
    name="compact",
    version=1,
    pool="general",
    scales_with="documents",
    tasks=tasks,
    worker=Worker,
    settings=lambda inputs: inputs.source,
    schemas=lambda inputs: {
        "documents": documents_schema(inputs.source),
        "ids": ids_schema(inputs.source),
        "origin": schemas.TOMBSTONES,
    },
)
