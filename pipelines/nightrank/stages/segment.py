"""Writes the documents of a segment in even shards.

In: extracted rows. Out: `documents`, in input order, and `ids` (each document's id, content hash
and place, scattered by id hash: what the next night's delta compares with). Cardinality: one shard
per run of documents. Knows nothing about: input formats, tokens, models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from nightrank.config.schema import Corpus
from nightrank.datasets.row_schemas import check_shards, documents_schema, ids, ids_schema
from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.storage import ordinals
from nightrank.storage.dataset import Manifest, Payload, shard_names
from nightrank.storage.reader import Reader

VERSION = 2


def plan(extracted: Manifest, wanted_rows: int | None) -> tuple[Task, ...]:
    """One task per run of rows; a run names the files it crosses.

    Raises:
        NightrankError: E_USAGE where more than 65,536 shards would be needed.
    """
    files = extracted.files("rows")
    total = sum(ref.rows for ref in files)
    size = ordinals.shard_rows(total, wanted_rows)
    count = -(-total // size)
    check_shards(count)
    ends = np.cumsum([ref.rows for ref in files])
    tasks = []
    for i, name in enumerate(shard_names(count)):
        start, stop = i * size, min((i + 1) * size, total)
        runs = []
        for ref, end in zip(files, ends.tolist(), strict=True):
            first = end - ref.rows
            low, high = max(start, first), min(stop, end)
            if low < high:
                runs.append((ref, low - first, high - first))
        tasks.append(Task(name, {"runs": runs, "shard": i}))
    return tuple(tasks)


class Worker:
    """Copies rows into one document shard."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self._schema = documents_schema(Corpus.model_validate(config["source"]))

    def __call__(self, task: Task, read: Reader) -> Payload:
        """Reads only the row groups that hold the run's rows."""
        pieces = [self._schema.empty_table()]
        for ref, low, high in task.args["runs"]:
            for first, group in read.slices(ref, low, high):
                begin, end = max(low - first, 0), min(high - first, group.num_rows)
                taken = group.slice(begin, end - begin)
                pieces.append(taken.select(self._schema.names).cast(self._schema))
        table = pa.concat_tables(pieces).combine_chunks()
        files = {"documents": table, "ids": ids(table, task.args["shard"])}
        return Payload(files, {"rate_rows": table.num_rows})


def stage(dataset: str, source: Corpus, extracted: Manifest, wanted_rows: int | None) -> Stage:
    """Assembles the stage."""
    return Stage(
        name="segment",
        version=VERSION,
        dataset=dataset,
        identity={"of": extracted.path},
        tasks=plan(extracted, wanted_rows),
        worker=WorkerSpec(Worker, {"source": source.model_dump(mode="json")}),
        schemas={"documents": documents_schema(source), "ids": ids_schema(source)},
    )
