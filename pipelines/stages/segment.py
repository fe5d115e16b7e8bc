"""Writes the documents of a segment in even shards.

In: ingested rows and the rows the delta dropped. Out: `documents`, in input order. Cardinality: one
shard per run of documents. Knows nothing about: input formats, tokens, models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.config import Corpus
from pipelines.errors import NightrankError
from pipelines.runtime.stage import Stage, Task, WorkerSpec
from pipelines.storage import ordinals
from pipelines.storage.dataset import FileRef, Manifest, Payload, shard_names
from pipelines.storage.reader import Reader
from pipelines.storage.validation import accepted_schema

VERSION = 1


def plan(ingested: Manifest, delta: Manifest, wanted_rows: int | None) -> tuple[Task, ...]:
    """One task per run of kept rows; a run names the splits it crosses.

    Raises:
        NightrankError: E_USAGE where more than 65,536 shards would be needed.
    """
    dropped = [
        [(ref, part) for ref in delta.files("dropped") if (part := ref.range(split))]
        for split in range(len(ingested.shards))
    ]
    kept = [
        ref.rows - sum(part.rows for _, part in dropped[split])
        for split, ref in enumerate(ingested.files("rows"))
    ]
    total = sum(kept)
    size = ordinals.shard_rows(total, wanted_rows)
    count = -(-total // size)
    if count > ordinals.MAX_DOCUMENT_SHARDS:
        what = f"{count} document shards, at most {ordinals.MAX_DOCUMENT_SHARDS} fit an ordinal"
        raise NightrankError("E_USAGE", what, "layout.document_shard_rows", "raise it")
    ends = np.cumsum(kept)
    tasks = []
    for i, name in enumerate(shard_names(count)):
        start, stop = i * size, min((i + 1) * size, total)
        runs = []
        for split, ref in enumerate(ingested.files("rows")):
            first = int(ends[split]) - kept[split]
            low, high = max(start, first), min(stop, int(ends[split]))
            if low < high:
                runs.append((ref, dropped[split], low - first, high - first))
        tasks.append(Task(name, {"runs": runs}))
    return tuple(tasks)


class Worker:
    """Copies kept rows into one document shard."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self._schema = documents_schema(Corpus.model_validate(config["source"]))

    def __call__(self, task: Task, read: Reader) -> Payload:
        """Reads only the row groups that hold the run's rows."""
        pieces = [self._schema.empty_table()]
        for ref, dropped, low, high in task.args["runs"]:
            pieces.extend(self._run(read, ref, dropped, low, high))
        table = pa.concat_tables(pieces).combine_chunks()
        return Payload({"documents": table}, {"rate_rows": table.num_rows})

    def _run(
        self, read: Reader, ref: FileRef, dropped: list[Any], low: int, high: int
    ) -> list[pa.Table]:
        """Kept rows [low, high) of a split.

        Dropped rows are named by their row in the split, files hold accepted rows only: the `row`
        column connects the two, read alone first to find where the run lies.
        """
        lost = [read.range(file, part)["row"].to_numpy() for file, part in dropped]
        rows = read.table(ref, ["row"])["row"].to_numpy()
        keep = ~np.isin(rows, np.concatenate(lost)) if lost else np.ones(len(rows), dtype=bool)
        positions = np.flatnonzero(keep)[low:high]
        found = []
        for first, group in read.slices(ref, int(positions[0]), int(positions[-1]) + 1):
            inside = positions[(positions >= first) & (positions < first + group.num_rows)]
            taken = group.take(pa.array(inside - first))
            found.append(taken.select(self._schema.names).cast(self._schema))
        return found


def documents_schema(source: Corpus) -> pa.Schema:
    """doc_id, title, text, content_hash and the attributes."""
    schema = accepted_schema("corpus", source)
    return pa.schema([field for field in schema if field.name != "row"])


def stage(
    dataset: str, source: Corpus, ingested: Manifest, delta: Manifest, wanted_rows: int | None
) -> Stage:
    """Assembles the stage."""
    return Stage(
        name="segment",
        version=VERSION,
        dataset=dataset,
        identity={"of": ingested.path, "delta": delta.path},
        tasks=plan(ingested, delta, wanted_rows),
        worker=WorkerSpec(Worker, {"source": source.model_dump(mode="json")}),
        schemas={"documents": documents_schema(source)},
    )
