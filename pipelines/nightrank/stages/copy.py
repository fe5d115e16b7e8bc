"""Takes along what was computed for documents when their segments are merged.

In: `origin` of a merged segment, one derived dataset of the old ones (tokens, terms, embeddings).
Out: the same dataset of the merged one. Cardinality: one shard per document shard. Knows nothing
about: models; nothing is computed anew.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from nightrank.datasets.vectors import to_numpy, to_table
from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.storage import ordinals, schemas
from nightrank.storage.dataset import Manifest, Payload
from nightrank.storage.reader import Reader
from nightrank.storage.tokens import Tokens

VERSION = 1


def plan(merged: Manifest, old: dict[int, Manifest]) -> tuple[Task, ...]:
    """One task per merged shard, with the files of the shards its documents stood in."""
    tasks = []
    for record in merged.shards:
        sources = {}
        for key in record.stats["keys"]:
            number, shard = ordinals.split_key(key)
            sources[key] = old[number].shards[shard].files
        tasks.append(Task(record.shard, {"origin": record.files["origin"], "sources": sources}))
    return tuple(tasks)


class Worker:
    """Gathers rows by where they were."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self._dimension: int | None = config["dimension"]

    def __call__(self, task: Task, read: Reader) -> Payload:
        """Rows of one old shard stand together and in order: merging keeps the order."""
        origin = read.table(task.args["origin"])["ordinal"].to_numpy()
        keys = ordinals.shard_key(origin)
        parts = [
            (files, ordinals.row(origin[keys == key]), int(np.searchsorted(keys, key)))
            for key, files in sorted(task.args["sources"].items())
        ]
        if self._dimension is None:
            return self._tokens(parts, read)
        return self._vectors(parts, self._dimension, read)

    def _tokens(self, parts: list[Any], read: Reader) -> Payload:
        taken = [
            Tokens.from_arrow(read.table(files["tokens"])["tokens"]).take(rows)
            for files, rows, _ in parts
        ]
        tokens = Tokens.concatenate(taken)
        content = pa.table([tokens.to_arrow()], schema=schemas.TOKENS)
        stats = {"rate_rows": len(tokens), "tokens": int(tokens.offsets[-1])}
        return Payload({"tokens": content}, stats)

    def _vectors(self, parts: list[Any], dimension: int, read: Reader) -> Payload:
        """Vectors keep their bits; documents without one stay without."""
        numbers, matrices, rejects = [], [], [schemas.ROW_REJECTS.empty_table()]
        for files, rows, start in parts:
            held, vectors = to_numpy(read.table(files["vectors"]))
            at = np.searchsorted(held, rows)
            found = at < len(held)
            found[found] = held[at[found]] == rows[found]
            numbers.append(start + np.flatnonzero(found))
            matrices.append(vectors[at[found]])
            without = read.table(files["rejects"])
            reasons = dict(zip(*(without[n].to_pylist() for n in ("row", "reason")), strict=True))
            lost = np.flatnonzero(~found)
            columns = [
                pa.array(start + lost, pa.int32()),
                pa.array([reasons[row] for row in rows[lost].tolist()], pa.string()),
            ]
            rejects.append(pa.table(columns, schema=schemas.ROW_REJECTS))
        table = to_table(
            np.concatenate([np.zeros(0, np.int64), *numbers]).astype(np.int32),
            np.concatenate([np.zeros((0, dimension), np.float32), *matrices]),
        )
        bad = pa.concat_tables(rejects).combine_chunks()
        stats = {"rate_rows": table.num_rows, "rejected": bad.num_rows, "encoded": 0}
        return Payload({"vectors": table, "rejects": bad}, stats)


def stage(
    dataset: str, merged: Manifest, old: dict[int, Manifest], dimension: int | None = None
) -> Stage:
    """Assembles the stage: of tokens or terms, or with a dimension, of embeddings."""
    made = {"tokens": schemas.TOKENS}
    if dimension is not None:
        made = {"vectors": schemas.vectors(dimension), "rejects": schemas.ROW_REJECTS}
    return Stage(
        name=f"copy {dataset.rpartition('/')[2].partition('-')[0]}",
        version=VERSION,
        dataset=dataset,
        identity={"of": {str(n): manifest.path for n, manifest in old.items()}},
        tasks=plan(merged, old),
        worker=WorkerSpec(Worker, {"dimension": dimension}),
        schemas=made,
    )
