"""Stages of a large run whose workers compute nothing: what `benchmarks.rehearse` puts through Ray.

Their tasks are cut by the stages' own `plan` functions from manifests that are made up, and their
records are committed as always. Document shards meet query shards twice: in searching (groups of
two index shards each, as `search.memory_bytes` packs them) and in reranking, whose units are slices
of a document shard. No stage may have more than 50,000 units, so 64,000 meetings of 640 document
shards and 100 query shards are cut into 32,000 units of each kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from nightrank.models.registry import TOY_CROSS_ENCODER, resolve_cross_encoder
from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.stages import merge, rank, rerank, search
from nightrank.storage.dataset import FileRef, Manifest, Payload, Record, shard_names
from nightrank.storage.reader import Reader
from nightrank.storage.scatter import Scatter

SHARD_ROWS, TOKENS = 262_144, 200
DIMENSION, DEPTH = 384, 100
STEPS = ("rerank", "deeper")  # Two, so that the first rank publishes nothing.


class Null:
    """Writes a unit's files without rows, but for one row under every key of a scatter file."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self._files: dict[str, Any] = {}
        for name, plain in config["schemas"].items():
            schema = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(plain)))
            self._files[name] = schema.empty_table()
            if name in config["keys"]:
                keys = np.arange(config["keys"][name], dtype=np.int64)
                rows = [pa.array(np.zeros(len(keys), np.int8)).cast(field.type) for field in schema]
                self._files[name] = Scatter(pa.table(rows, schema=schema), keys)

    def __call__(self, task: Task, read: Reader) -> Payload:
        """Reads nothing."""
        return Payload(dict(self._files), {"rate_rows": 1, "rate_unit": "units"})


@dataclass(frozen=True)
class Rehearsal:
    """How many document shards, query shards, and slices of a document shard there are."""

    documents: int
    queries: int
    slices: int

    @property
    def units(self) -> int:
        """Units of all stages."""
        searched = -(-self.documents // 2) * self.queries
        return searched + self.documents * self.slices + 2 * self.queries

    def stages(self) -> Iterator[Callable[[dict[str, Manifest]], Stage]]:
        """What makes each stage, in order, of the manifests of those before by name."""
        yield self._search
        yield self._merge
        yield self._rerank
        yield self._rank

    def _search(self, made: dict[str, Manifest]) -> Stage:
        size = 4 * DIMENSION * SHARD_ROWS
        files = {"vectors": size, "index": size, "rows": 6 * SHARD_ROWS}
        documents = _made_up("documents", self.documents, files)
        queries = _made_up("queries", self.queries, {"vectors": size // 8})
        segments = {0: search.IndexedSegment(documents, documents)}
        memory = 2 * sum(files.values())
        inputs = search.Inputs(queries, None, segments, [], DEPTH, "", memory)
        return _null(search.STAGE.stage("rehearsal", inputs), {})

    def _merge(self, made: dict[str, Manifest]) -> Stage:
        queries = _made_up("queries", self.queries, {"queries": SHARD_ROWS})
        inputs = merge.Inputs(queries, made["search"], DEPTH, DEPTH, 0.0)
        return _null(merge.STAGE.stage("rehearsal", inputs), {"scatter": self.documents})

    def _rerank(self, made: dict[str, Manifest]) -> Stage:
        queries = _made_up("queries", self.queries, {"queries": SHARD_ROWS})
        tokens = _made_up("tokens", self.documents, {"tokens": TOKENS * SHARD_ROWS})
        asked = _made_up("tokens", self.queries, {"tokens": TOKENS * SHARD_ROWS})
        model = resolve_cross_encoder(TOY_CROSS_ENCODER)
        # One pair of every query shard: as many tokens a document shard, to be cut evenly.
        held = self.queries * min(model.max_length_tokens, 2 * TOKENS)
        unit = max(1, held // self.slices)
        inputs = rerank.Inputs(made["merge"], queries, asked, {0: tokens}, model, unit)
        stage = rerank.STAGE.stage("rehearsal", inputs, STEPS[0])
        return _null(stage, {"scores": self.queries})

    def _rank(self, made: dict[str, Manifest]) -> Stage:
        step = rank.StepSettings(STEPS, 0, DEPTH, 0.0, DEPTH, False)
        inputs = rank.Inputs(made["merge"], "candidates", [made[STEPS[0]]], step, None)
        return _null(rank.STAGE.stage("rehearsal", inputs), {"scatter": 0})


def _null(stage: Stage, keys: dict[str, int]) -> Stage:
    """The stage with workers that compute nothing."""
    plain = {name: schema.serialize().to_pybytes().hex() for name, schema in stage.schemas.items()}
    return replace(stage, worker=WorkerSpec(Null, {"schemas": plain, "keys": keys}))


def _made_up(path: str, count: int, sizes: dict[str, int]) -> Manifest:
    """A manifest of shards whose files nobody opens."""
    shards = []
    for name in shard_names(count):
        files = {
            file: FileRef(
                f"{path}/_data/{name}.{file}-{'0' * 12}.parquet", size, "0" * 64, SHARD_ROWS
            )
            for file, size in sizes.items()
        }
        shards.append(Record(name, 0, files, {"tokens": TOKENS * SHARD_ROWS}, 1.0))
    return Manifest(path, path, 1, {}, tuple(shards))
