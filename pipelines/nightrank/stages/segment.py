"""Writes the documents of a segment in even shards.

In: extracted rows. Out: `documents`, in input order, and `ids` (each document's id, content hash
and place, scattered by id hash: what the next run's delta compares with). Cardinality: one shard
per run of documents. Knows nothing about: input formats, tokens, models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from nightrank.config.schema import Corpus
from nightrank.datasets.row_schemas import check_shards, documents_schema, ids, ids_schema
from nightrank.runtime.identity import outside_identity
from nightrank.runtime.stage import Declaration, Task
from nightrank.storage import ordinals
from nightrank.storage.dataset import FileRef, Manifest, Payload, shard_names
from nightrank.storage.reader import Reader


@dataclass(frozen=True)
class Inputs:
    """Extracted rows, and how many a shard is to hold (None: chosen by their number)."""

    extracted: Manifest
    shard_rows: int | None
    source: Corpus = outside_identity()


@dataclass(frozen=True)
class Args:
    """The number of a document shard, and its runs: (file, first row, last row plus one)."""

    shard: int
    runs: list[tuple[FileRef, int, int]]


def tasks(inputs: Inputs) -> list[Task[Args]]:
    """One task per run of rows; a run names the files it crosses.

    Raises:
        NightrankError: E_USAGE where more than 65,536 shards would be needed.
    """
    files = inputs.extracted.files("rows")
    total = sum(ref.rows for ref in files)
    size = ordinals.shard_rows(total, inputs.shard_rows)
    count = -(-total // size)
    check_shards(count)
    ends = np.cumsum([ref.rows for ref in files])
    units = []
    for i, name in enumerate(shard_names(count)):
        start, stop = i * size, min((i + 1) * size, total)
        runs = []
        for ref, end in zip(files, ends.tolist(), strict=True):
            first = end - ref.rows
            low, high = max(start, first), min(stop, end)
            if low < high:
                runs.append((ref, low - first, high - first))
        units.append(Task(name, Args(i, runs)))
    return units


class Worker:
    """Copies rows into one document shard."""

    def __init__(self, settings: Corpus, threads: int) -> None:
        self._schema = documents_schema(settings)

    def __call__(self, task: Task[Args], read: Reader) -> Payload:
        """Reads only the row groups that hold the run's rows."""
        pieces = [self._schema.empty_table()]
        for ref, low, high in task.args.runs:
            for first, group in read.slices(ref, low, high):
                begin, end = max(low - first, 0), min(high - first, group.num_rows)
                taken = group.slice(begin, end - begin)
                pieces.append(taken.select(self._schema.names).cast(self._schema))
        table = pa.concat_tables(pieces).combine_chunks()
        files = {"documents": table, "ids": ids(table, task.args.shard)}
        return Payload(files, {"rate_rows": table.num_rows})


STAGE = Declaration(
    name="segment",
    version=2,
    pool="general",
    scales_with="documents",
    tasks=tasks,
    worker=Worker,
    settings=lambda inputs: inputs.source,
    schemas=lambda inputs: {
        "documents": documents_schema(inputs.source),
        "ids": ids_schema(inputs.source),
    },
)
