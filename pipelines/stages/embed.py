"""Embeds documents and distinct queries with the bi-encoder.

In: tokens. Out: `vectors` (those that are finite and not zero) and `rejects` (rows without one).
Cardinality: one shard per shard. Knows nothing about: texts, indexes, queries' candidates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.models.protocols import ResolvedModel
from pipelines.models.registry import load_bi_encoder
from pipelines.runtime.stage import Stage, Task, WorkerSpec
from pipelines.storage import schemas
from pipelines.storage.dataset import Manifest, Payload
from pipelines.storage.reader import Reader
from pipelines.tokens import Tokens

VERSION = 1
SIDES = {"documents": "document", "queries": "query"}


def plan(tokens: Manifest) -> tuple[Task, ...]:
    """One task per shard of tokens."""
    return tuple(Task(shard.shard, {"tokens": shard.files["tokens"]}) for shard in tokens.shards)


class Worker:
    """Holds the bi-encoder."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self._kind = config["kind"]
        self._encoder = load_bi_encoder(ResolvedModel.from_dict(config["model"]), threads)

    def __call__(self, task: Task, read: Reader) -> Payload:
        """A NaN vector would enter FAISS without a word and never be found again."""
        table = read.table(task.args["tokens"])
        tokens = Tokens.from_arrow(table["tokens"])
        vectors = self._encoder.encode(tokens, self._kind)
        finite = np.asarray(np.isfinite(vectors).all(axis=1))
        zero = finite & ~vectors.any(axis=1)
        good = np.flatnonzero(finite & ~zero).astype(np.int32)
        bad = np.flatnonzero(~finite | zero).astype(np.int32)
        reasons = np.where(zero[bad], "zero_embedding", "nonfinite_embedding").tolist()
        rejects = pa.table(
            [pa.array(bad), pa.array(reasons, pa.string())], schemas.ROW_REJECTS.names
        )
        stats = {
            "rate_rows": len(tokens),
            "rate_unit": "texts",
            "rejected": len(bad),
            "tokens": int(tokens.offsets[-1]),
        }
        files = {"vectors": to_table(good, vectors[good]), "rejects": rejects}
        return Payload(files, stats)


def to_table(rows: np.ndarray, vectors: np.ndarray) -> pa.Table:
    """Rows (int32) and vectors (float32, n x d) as an embeddings table."""
    dimension = vectors.shape[1]
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    lists = pa.FixedSizeListArray.from_arrays(flat, dimension)
    return pa.table([pa.array(rows, pa.int32()), lists], schema=schemas.vectors(dimension))


def to_numpy(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `to_table`."""
    column = table["vector"].combine_chunks()
    dimension = column.type.list_size
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return table["row"].to_numpy(), flat.reshape(-1, dimension)


def stage(dataset: str, kind: str, tokens: Manifest, model: ResolvedModel) -> Stage:
    """Assembles the stage for the `documents` or the `queries`."""
    return Stage(
        name=f"embed {kind}",
        version=VERSION,
        dataset=dataset,
        identity={"of": tokens.path, "model": model.identity()},
        tasks=plan(tokens),
        worker=WorkerSpec(Worker, {"kind": SIDES[kind], "model": model.to_dict()}),
        schemas={"vectors": schemas.vectors(model.dimension), "rejects": schemas.ROW_REJECTS},
        pool="model",
    )
