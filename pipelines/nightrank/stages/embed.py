"""Embeds documents and distinct queries with the bi-encoder.

In: tokens; of queries also the vectors of an earlier generation's, by text hash. Out: `vectors`
(those that are finite and not zero) and `rejects` (rows without one). Cardinality: one shard per
shard. Knows nothing about: texts, indexes, queries' candidates.

A query that stood before keeps its vector bit for bit: its standing list was scored with it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.datasets import cut_inputs
from nightrank.datasets.lists import overlapping
from nightrank.datasets.vectors import to_numpy, to_table
from nightrank.models.protocols import BiEncoder, ResolvedModel
from nightrank.models.registry import load_bi_encoder
from nightrank.models.stored import on_this_node
from nightrank.models.text.batching import SPENT
from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.storage import schemas
from nightrank.storage.dataset import Manifest, Payload
from nightrank.storage.reader import Reader
from nightrank.storage.tokens import Tokens

VERSION = 2
SIDES = {"documents": "document", "queries": "query"}


@dataclass(frozen=True)
class KnownVectors:
    """Vectors that queries have had: tonight's distinct queries, earlier ones, their embeddings."""

    distinct: Manifest
    earlier: Manifest
    embedded: Manifest


def plan(tokens: Manifest, known: KnownVectors | None) -> tuple[Task, ...]:
    """One task per shard of tokens."""
    tasks = []
    for number, shard in enumerate(tokens.shards):
        args: dict[str, Any] = {"tokens": shard.files["tokens"], "known": []}
        if known:
            args["texts"] = known.distinct.shards[number].files["queries"]
            args["known"] = [
                (
                    known.earlier.shards[i].files["queries"],
                    known.embedded.shards[i].files["vectors"],
                )
                for i in overlapping(number, len(tokens.shards), len(known.earlier.shards))
            ]
        tasks.append(Task(shard.shard, args))
    return tuple(tasks)


class Worker:
    """Holds the bi-encoder, loaded at the first text that has no vector yet."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self._kind, self._threads = config["kind"], threads
        self._model = ResolvedModel.from_dict(config["model"])
        self._encoder: BiEncoder | None = None

    def _opened(self, read: Reader) -> BiEncoder:
        if self._encoder is None:
            self._encoder = load_bi_encoder(on_this_node(self._model, read), self._threads)
        return self._encoder

    def __call__(self, task: Task, read: Reader) -> Payload:
        """A NaN vector would enter FAISS without a word and never be found again."""
        table = read.table(task.args["tokens"])
        tokens = Tokens.from_arrow(table["tokens"])
        vectors, missing = self._known(task, len(tokens), read)
        chosen = task.chosen(len(missing))
        model_seconds, cut = 0.0, SPENT.cut
        if chosen.any():
            rows, encoder, begin = missing[chosen], self._opened(read), time.perf_counter()
            vectors[rows] = encoder.encode(tokens.take(rows), self._kind)
            model_seconds = time.perf_counter() - begin
        crashed = np.zeros(len(tokens), bool)
        crashed[missing[~chosen]] = True
        vectors[crashed] = np.nan
        finite = np.asarray(np.isfinite(vectors).all(axis=1))
        zero = finite & ~vectors.any(axis=1)
        good = np.flatnonzero(finite & ~zero).astype(np.int32)
        bad = np.flatnonzero(~finite | zero).astype(np.int32)
        reasons = np.where(zero[bad], "zero_embedding", "nonfinite_embedding")
        reasons = np.where(crashed[bad], "crashed_worker", reasons).tolist()
        rejects = pa.table(
            [pa.array(bad), pa.array(reasons, pa.string())], schemas.ROW_REJECTS.names
        )
        stats = {
            "rate_rows": len(tokens),
            "rate_unit": "texts",
            "rejected": len(bad),
            "set_aside": int(crashed.sum()),
            "encoded": len(missing),
            cut_inputs.STAT: SPENT.cut - cut,
            "model_seconds": round(model_seconds, 3),
            "tokens": int(tokens.offsets[-1]),
        }
        files = {"vectors": to_table(good, vectors[good]), "rejects": rejects}
        return Payload(files, stats, inputs=len(missing))

    def _known(self, task: Task, count: int, read: Reader) -> tuple[np.ndarray, np.ndarray]:
        """Vectors by row, those of earlier nights filled in, and the rows to be encoded."""
        vectors = np.zeros((count, self._model.dimension), np.float32)
        missing = np.ones(count, bool)
        if task.args.get("known"):
            mine = read.table(task.args["texts"], ["query_hash"])["query_hash"].combine_chunks()
            for queries_ref, vectors_ref in task.args["known"]:
                rows, found = to_numpy(read.table(vectors_ref))
                theirs = read.table(queries_ref, ["query_hash"])["query_hash"]
                now = pc.fill_null(pc.index_in(theirs.take(pa.array(rows)), mine), -1).to_numpy()
                vectors[now[now >= 0]] = found[now >= 0]
                missing[now[now >= 0]] = False
        return vectors, np.flatnonzero(missing).astype(np.int64)


def stage(
    dataset: str,
    kind: str,
    tokens: Manifest,
    model: ResolvedModel,
    known: KnownVectors | None = None,
) -> Stage:
    """Assembles the stage for the `documents` or the `queries`."""
    return Stage(
        name=f"embed {kind}",
        version=VERSION,
        dataset=dataset,
        identity={"of": tokens.path, "model": model.identity()},
        tasks=plan(tokens, known),
        worker=WorkerSpec(Worker, {"kind": SIDES[kind], "model": model.to_dict()}),
        schemas={"vectors": schemas.vectors(model.dimension), "rejects": schemas.ROW_REJECTS},
        pool="model",
        divisible=True,
    )
