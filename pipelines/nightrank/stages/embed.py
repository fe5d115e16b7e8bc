"""Embeds documents and distinct queries with the bi-encoder.

In: tokens; of queries also the vectors of an earlier generation, by text hash. Out: `vectors`
(those that are finite and not zero) and `rejects` (rows without one). Cardinality: one shard per
shard. Knows nothing about: texts, indexes, queries' candidates.

A query that was asked before keeps its vector bit for bit: its list was scored with it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.datasets import cut_inputs
from nightrank.datasets.lists import overlapping
from nightrank.datasets.texts import Side
from nightrank.datasets.vectors import to_numpy, to_table
from nightrank.models.protocols import BiEncoder, Kind, ResolvedModel
from nightrank.models.registry import load_bi_encoder
from nightrank.models.stored import on_this_node
from nightrank.models.text.batching import SPENT
from nightrank.runtime.identity import outside_identity
from nightrank.runtime.stage import Declaration, Task
from nightrank.storage import schemas
from nightrank.storage.dataset import FileRef, Manifest, Payload
from nightrank.storage.reader import Reader
from nightrank.storage.tokens import Tokens

KIND: dict[Side, Kind] = {"documents": "document", "queries": "query"}


@dataclass(frozen=True)
class KnownVectors:
    """Vectors of earlier queries: this run's distinct queries, the earlier ones, their vectors."""

    distinct: Manifest
    earlier: Manifest
    embedded: Manifest


@dataclass(frozen=True)
class Inputs:
    """Tokens, the encoder, and vectors that are taken over."""

    tokens: Manifest
    side: Side
    model: ResolvedModel
    known: KnownVectors | None = outside_identity(None)


@dataclass(frozen=True)
class Settings:
    """Which side of the bi-encoder."""

    kind: Kind
    model: ResolvedModel


@dataclass(frozen=True)
class Args:
    """Tokens of a shard; of queries their texts' hashes, and earlier (hashes, vectors)."""

    tokens: FileRef
    texts: FileRef | None = None
    known: list[tuple[FileRef, FileRef]] = field(default_factory=list)


def tasks(inputs: Inputs) -> list[Task[Args]]:
    """One task per shard of tokens."""
    shards, known = inputs.tokens.shards, inputs.known
    units = []
    for number, shard in enumerate(shards):
        args = Args(shard.files["tokens"])
        if known:
            earlier, embedded = known.earlier.shards, known.embedded.shards
            pairs = [
                (earlier[i].files["queries"], embedded[i].files["vectors"])
                for i in overlapping(number, len(shards), len(earlier))
            ]
            args = replace(args, texts=known.distinct.shards[number].files["queries"], known=pairs)
        units.append(Task(shard.shard, args))
    return units


class Worker:
    """Holds the bi-encoder, loaded at the first text that has no vector yet."""

    def __init__(self, settings: Settings, threads: int) -> None:
        self._kind, self._model, self._threads = settings.kind, settings.model, threads
        self._encoder: BiEncoder | None = None

    def _opened(self, read: Reader) -> BiEncoder:
        if self._encoder is None:
            self._encoder = load_bi_encoder(on_this_node(self._model, read), self._threads)
        return self._encoder

    def __call__(self, task: Task[Args], read: Reader) -> Payload:
        """A NaN vector would enter FAISS without a word and never be found again."""
        table = read.table(task.args.tokens)
        tokens = Tokens.from_arrow(table["tokens"])
        vectors, missing = self._known(task.args, len(tokens), read)
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

    def _known(self, args: Args, count: int, read: Reader) -> tuple[np.ndarray, np.ndarray]:
        """Vectors by row, those of earlier runs filled in, and the rows to be encoded."""
        vectors = np.zeros((count, self._model.dimension), np.float32)
        missing = np.ones(count, bool)
        if args.texts:
            mine = read.table(args.texts, ["query_hash"])["query_hash"].combine_chunks()
            for queries_ref, vectors_ref in args.known:
                rows, earlier_vectors = to_numpy(read.table(vectors_ref))
                theirs = read.table(queries_ref, ["query_hash"])["query_hash"]
                now = pc.fill_null(pc.index_in(theirs.take(pa.array(rows)), mine), -1).to_numpy()
                vectors[now[now >= 0]] = earlier_vectors[now >= 0]
                missing[now[now >= 0]] = False
        return vectors, np.flatnonzero(missing).astype(np.int64)


STAGE = Declaration(
    name="embed",
    version=2,
    pool="model",
    scales_with="texts",
    tasks=tasks,
    worker=Worker,
    settings=lambda inputs: Settings(KIND[inputs.side], inputs.model),
    schemas=lambda inputs: {
        "vectors": schemas.vectors(inputs.model.dimension),
        "rejects": schemas.ROW_REJECTS,
    },
    divisible=True,
)
