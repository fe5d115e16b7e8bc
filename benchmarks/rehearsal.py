"""Stages of a large run whose workers compute nothing, which `benchmarks.rehearse` runs on Ray.

The stages' own `plan` functions cut the tasks, from synthetic manifests, and records are committed
as in any run. Document shards are combined with query shards twice: in searching (groups of two
index shards, as `search.memory_bytes` packs them) and in reranking, whose units are slices of a
document shard. A stage has at most 50,000 units, so the 64,000 combinations of 640 document shards
and 100 query shards give 32,000 units of each kind.
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
    """A worker that writes files without rows, except one row for each key of a scatter file."""

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
    """Numbers of document shards, query shards, and slices of a document shard."""

    documents: int
    queries: int
    slices: int

    @property
    def units(self) -> int:
        """Units of all stages."""
        searched = -(-self.documents // 2) * self.queries
        return searched + self.documents * self.slices + 2 * self.queries

    def stages(self) -> Iterator[Callable[[dict[str, Manifest]], Stage]]:
        """Functions that declare each stage, in order, from the earlier manifests by name."""
        yield self._search
        yield self._merge
        yield self._rerank
        yield self._rank

    def _search(self, manifests: dict[str, Manifest]) -> Stage:
        size = 4 * DIMENSION * SHARD_ROWS
        files = {"vectors": size, "index": size, "rows": 6 * SHARD_ROWS}
        documents = _synthetic_manifest("documents", self.documents, files)
        stage = search.stage(
            "search",
            _synthetic_manifest("queries", self.queries, {"vectors": size // 8}),
            None,
            search.SearchInputs({0: (documents, documents)}),
            2 * sum(files.values()),
            {"depth": DEPTH, "search_parameters": ""},
        )
        return _null(stage, {})

    def _merge(self, manifests: dict[str, Manifest]) -> Stage:
        queries = _synthetic_manifest("queries", self.queries, {"queries": SHARD_ROWS})
        stage = merge.stage("candidates", queries, manifests["search"], DEPTH, DEPTH, 0.0)
        return _null(stage, {"scatter": self.documents})

    def _rerank(self, manifests: dict[str, Manifest]) -> Stage:
        queries = _synthetic_manifest("queries", self.queries, {"queries": SHARD_ROWS})
        tokens = _synthetic_manifest("tokens", self.documents, {"tokens": TOKENS * SHARD_ROWS})
        asked = _synthetic_manifest("tokens", self.queries, {"tokens": TOKENS * SHARD_ROWS})
        scored = rerank.RerankInputs(manifests["merge"], queries, asked, {0: tokens})
        model = resolve_cross_encoder(TOY_CROSS_ENCODER)
        # Tokens of a document shard with one pair of each query shard, to be cut evenly.
        shard_tokens = self.queries * min(model.max_length_tokens, 2 * TOKENS)
        stage = rerank.stage("scores", STEPS[0], scored, model, max(1, shard_tokens // self.slices))
        return _null(stage, {"scores": self.queries})

    def _rank(self, manifests: dict[str, Manifest]) -> Stage:
        settings = rank.Settings(STEPS, 0, DEPTH, 0.0, DEPTH, False)
        scores = [manifests[STEPS[0]]]
        stage = rank.stage("rank", manifests["merge"], "candidates", scores, settings, None)
        return _null(stage, {"scatter": 0})


def _null(stage: Stage, keys: dict[str, int]) -> Stage:
    """The stage with workers that compute nothing."""
    plain = {name: schema.serialize().to_pybytes().hex() for name, schema in stage.schemas.items()}
    return replace(stage, worker=WorkerSpec(Null, {"schemas": plain, "keys": keys}))


def _synthetic_manifest(path: str, count: int, sizes: dict[str, int]) -> Manifest:
    """A manifest of shards whose files do not exist and are never opened."""
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
