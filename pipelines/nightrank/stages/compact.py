"""Merges segments: the living documents of several as one.

In: documents of the segments, tombstones. Out: `documents` and `ids` as `segment` writes them, and
`origin`, where every document stood before. Cardinality: one shard per run of document rows. Knows
nothing about: tokens, vectors, scores; `copy` takes those along.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from nightrank.config.schema import Corpus
from nightrank.datasets.current_corpus import tombstoned_ordinals
from nightrank.datasets.row_schemas import check_shards, documents_schema, ids, ids_schema
from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.storage import ordinals, schemas
from nightrank.storage.dataset import FileRef, Manifest, Payload, shard_names
from nightrank.storage.reader import Reader

VERSION = 1


def plan(
    documents: dict[int, Manifest], dead: list[FileRef], living: int, wanted_rows: int | None
) -> tuple[Task, ...]:
    """Runs of rows, dead ones among them; sized so that the living ones fill a shard."""
    files = [
        (number << ordinals.SHARD_BITS | shard, ref)
        for number, made in sorted(documents.items())
        for shard, ref in enumerate(made.files("documents"))
    ]
    total = sum(ref.rows for _, ref in files)
    size = ordinals.shard_rows(living, wanted_rows)
    count = -(-living // size)
    check_shards(count)
    ends = np.cumsum([ref.rows for _, ref in files]).tolist()
    tasks = []
    for i, name in enumerate(shard_names(count)):
        start, stop = total * i // count, total * (i + 1) // count
        runs = []
        for (key, ref), end in zip(files, ends, strict=True):
            low, high = max(start, end - ref.rows), min(stop, end)
            if low < high:
                runs.append((key, ref, low - (end - ref.rows), high - (end - ref.rows)))
        tasks.append(Task(name, {"runs": runs, "shard": i, "dead": dead}))
    return tuple(tasks)


class Worker:
    """Copies living rows into one document shard."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self._schema = documents_schema(Corpus.model_validate(config["source"]))

    def __call__(self, task: Task, read: Reader) -> Payload:
        """Reads only the row groups that hold the run's rows."""
        dead = tombstoned_ordinals(task.args["dead"], read)
        pieces, origins = [self._schema.empty_table()], [np.zeros(0, np.int64)]
        for key, ref, low, high in task.args["runs"]:
            for first, group in read.slices(ref, low, high):
                begin, end = max(low - first, 0), min(high - first, group.num_rows)
                rows = np.arange(first + begin, first + end, dtype=np.int64)
                places = (np.int64(key) << ordinals.ROW_BITS) | rows
                alive = ~np.isin(places, dead)
                taken = group.slice(begin, end - begin).filter(pa.array(alive))
                pieces.append(taken.select(self._schema.names).cast(self._schema))
                origins.append(places[alive])
        table, origin = pa.concat_tables(pieces).combine_chunks(), np.concatenate(origins)
        files = {
            "documents": table,
            "ids": ids(table, task.args["shard"]),
            "origin": pa.table([pa.array(origin)], schema=schemas.TOMBSTONES),
        }
        keys = np.unique(ordinals.shard_key(origin)).tolist()
        return Payload(dict(files), {"rate_rows": table.num_rows, "keys": keys})


def stage(
    dataset: str,
    source: Corpus,
    documents: dict[int, Manifest],
    dead: list[FileRef],
    living: int,
    wanted_rows: int | None,
) -> Stage:
    """Assembles the stage; `living` of the documents' rows are not among the `dead`."""
    return Stage(
        name="compact",
        version=VERSION,
        dataset=dataset,
        identity={"of": {str(n): made.path for n, made in documents.items()}},
        tasks=plan(documents, dead, living, wanted_rows),
        worker=WorkerSpec(Worker, {"source": source.model_dump(mode="json")}),
        schemas={
            "documents": documents_schema(source),
            "ids": ids_schema(source),
            "origin": schemas.TOMBSTONES,
        },
    )
