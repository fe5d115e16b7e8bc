"""Takes along what was computed for documents when their segments are merged.

In: `origin` of a merged segment, one derived dataset of the old ones (tokens, terms, embeddings).
Out: the same dataset of the merged one. Cardinality: one shard per document shard. Knows nothing
about: models; nothing is computed again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from nightrank.datasets.vectors import to_numpy, to_table
from nightrank.runtime.stage import Declaration, Task
from nightrank.storage import ordinals, schemas
from nightrank.storage.dataset import FileRef, Manifest, Payload
from nightrank.storage.reader import Reader
from nightrank.storage.tokens import Tokens


@dataclass(frozen=True)
class Inputs:
    """What is copied.

    Attributes:
        merged: documents of the merged segment, with their `origin`.
        old: the derived dataset of every old segment, by its number.
        dimension: of the vectors; None for tokens and terms.
    """

    merged: Manifest
    old: dict[int, Manifest]
    dimension: int | None


@dataclass(frozen=True)
class Args:
    """One merged shard: `origin`, and files of the old shards by scatter key."""

    origin: FileRef
    sources: dict[int, dict[str, FileRef]]


@dataclass(frozen=True)
class OldShard:
    """Files of an old shard, the rows that are copied, and where the first of them goes."""

    files: dict[str, FileRef]
    rows: np.ndarray
    start: int


def tasks(inputs: Inputs) -> list[Task[Args]]:
    """One task per merged shard, with the files of the shards that its documents were in."""
    units = []
    for record in inputs.merged.shards:
        sources = {}
        for key in record.stats["keys"]:
            number, shard = ordinals.split_key(key)
            sources[key] = inputs.old[number].shards[shard].files
        units.append(Task(record.shard, Args(record.files["origin"], sources)))
    return units


class Worker:
    """Gathers rows by where they were."""

    def __init__(self, settings: int | None, threads: int) -> None:
        self._dimension = settings

    def __call__(self, task: Task[Args], read: Reader) -> Payload:
        """Rows of one old shard are adjacent and in order: merging keeps the order."""
        origin = read.table(task.args.origin)["ordinal"].to_numpy()
        keys = ordinals.shard_key(origin)
        parts = [
            OldShard(files, ordinals.row(origin[keys == key]), int(np.searchsorted(keys, key)))
            for key, files in sorted(task.args.sources.items())
        ]
        if self._dimension is None:
            return self._tokens(parts, read)
        return self._vectors(parts, self._dimension, read)

    def _tokens(self, parts: list[OldShard], read: Reader) -> Payload:
        taken = [
            Tokens.from_arrow(read.table(part.files["tokens"])["tokens"]).take(part.rows)
            for part in parts
        ]
        tokens = Tokens.concatenate(taken)
        content = pa.table([tokens.to_arrow()], schema=schemas.TOKENS)
        stats = {"rate_rows": len(tokens), "tokens": int(tokens.offsets[-1])}
        return Payload({"tokens": content}, stats)

    def _vectors(self, parts: list[OldShard], dimension: int, read: Reader) -> Payload:
        """Vectors keep their bits; documents without one stay without."""
        numbers, matrices, rejects = [], [], [schemas.ROW_REJECTS.empty_table()]
        for part in parts:
            files, rows, start = part.files, part.rows, part.start
            held, vectors = to_numpy(read.table(files["vectors"]))
            at = np.searchsorted(held, rows)
            has_vector = at < len(held)
            has_vector[has_vector] = held[at[has_vector]] == rows[has_vector]
            numbers.append(start + np.flatnonzero(has_vector))
            matrices.append(vectors[at[has_vector]])
            without = read.table(files["rejects"])
            reasons = dict(zip(*(without[n].to_pylist() for n in ("row", "reason")), strict=True))
            lost = np.flatnonzero(~has_vector)
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


def schemas_of(inputs: Inputs) -> dict[str, pa.Schema]:
    """Schemas of the shards' tables."""
    if inputs.dimension is None:
        return {"tokens": schemas.TOKENS}
    return {"vectors": schemas.vectors(inputs.dimension), "rejects": schemas.ROW_REJECTS}


STAGE = Declaration(
    name="copy",
    version=1,
    pool="general",
    scales_with="documents",
    tasks=tasks,
    worker=Worker,
    settings=lambda inputs: inputs.dimension,
    schemas=schemas_of,
)
