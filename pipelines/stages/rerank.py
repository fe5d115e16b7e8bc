"""Scores pairs with the cross-encoder, where the documents live.

In: candidates of one document shard, tokens of its documents and of the queries. Out: `scores`,
scattered by query shard. Cardinality: slices of a document shard by predicted tokens. Knows nothing
about: lists, ranks, the first stage.

Ids travel, text stays: every document shard is read once, in order, already tokenised.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.models.protocols import ResolvedModel
from pipelines.models.registry import load_cross_encoder
from pipelines.runtime.stage import Stage, Task, WorkerSpec
from pipelines.storage import ordinals, schemas
from pipelines.storage.dataset import FileRef, Manifest, Payload, Record
from pipelines.storage.reader import Reader
from pipelines.storage.scatter import Range, Scatter
from pipelines.tokens import Tokens

VERSION = 1
# About a minute on one CPU core in bf16 (built-in reranker), so that little is lost when a unit is.
UNIT_TOKENS = 500_000
# On large jobs units grow instead: planning and records stay small.
AUTO_UNITS = 8_192


def plan(
    scattered: Manifest,
    document_tokens: Manifest,
    query_tokens: Manifest,
    unit_tokens: int | str,
    max_length: int,
) -> tuple[Task, ...]:
    """Slices every document shard that has candidates into units of even predicted cost."""
    query_mean = query_tokens.total("tokens") / max(1, query_tokens.rows("tokens"))
    ranges: dict[int, list[tuple[int, FileRef, Range]]] = {}
    for number, ref in enumerate(scattered.files("scatter")):
        bare = FileRef(ref.key, ref.size, ref.sha256, ref.rows)
        for part in ref.ranges:
            ranges.setdefault(part.key, []).append((number, bare, part))
    cost: dict[int, float] = {}
    for key, parts in ranges.items():
        shard = _shard(document_tokens, key)
        mean = query_mean + shard.stats["tokens"] / max(1, shard.files["tokens"].rows)
        cost[key] = sum(part.rows for _, _, part in parts) * min(max_length, mean)
    unit = max(UNIT_TOKENS, sum(cost.values()) / AUTO_UNITS)
    if isinstance(unit_tokens, int):
        unit = unit_tokens
    tasks = []
    queries = query_tokens.files("tokens")
    for key in sorted(ranges):
        shard = _shard(document_tokens, key)
        tokens = shard.files["tokens"]
        slices = min(max(1, tokens.rows), max(1, round(cost[key] / unit)))
        for i in range(slices):
            args = {
                "key": key,
                "pairs": ranges[key],
                "tokens": tokens,
                "start": tokens.rows * i // slices,
                "stop": tokens.rows * (i + 1) // slices,
                "queries": {number: queries[number] for number, _, _ in ranges[key]},
            }
            name = f"{shard.shard}.seg-{key >> ordinals.SHARD_BITS:05d}.slice-{i:04d}"
            tasks.append(Task(name, args))
    return tuple(tasks)


def _shard(documents: Manifest, key: int) -> Record:
    """The document shard of a scatter key."""
    return documents.shards[key & (ordinals.MAX_DOCUMENT_SHARDS - 1)]


class Worker:
    """Holds the cross-encoder, and the query tokens it has read."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self._model = load_cross_encoder(ResolvedModel.from_dict(config["model"]), threads)
        self._queries: dict[str, Tokens] = {}

    def __call__(self, task: Task, read: Reader) -> Payload:
        """Scores the pairs whose document falls into the slice; NaN scores travel as they are."""
        args = task.args
        shards, queries, rows = self._pairs(args, read)
        used, query_index = np.unique(shards << 32 | queries, return_inverse=True)
        documents, document_index = np.unique(rows, return_inverse=True)
        tokens = Tokens.from_arrow(read.table(args["tokens"])["tokens"]).take(documents)
        query_tokens = self._query_tokens(used, args["queries"], read)
        pairs = np.stack([query_index, document_index], axis=1).astype(np.int32)
        scores = self._model.score(query_tokens, tokens, pairs)
        places = (np.int64(args["key"]) << ordinals.ROW_BITS) | rows
        columns = [pa.array(queries, pa.int32()), pa.array(places), pa.array(scores, pa.float32())]
        content = Scatter(pa.table(columns, schema=schemas.SCORES), shards)
        lengths = query_tokens.lengths[query_index] + tokens.lengths[document_index]
        stats = {
            "rate_rows": len(pairs),
            "rate_unit": "pairs",
            "pairs": len(pairs),
            "tokens": int(lengths.sum()),
            "nonfinite": int((~np.isfinite(scores)).sum()),
        }
        return Payload({"scores": content}, stats)

    def _pairs(
        self, args: dict[str, Any], read: Reader
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Query shard, query row (int64) and document row (int64) of every pair in the slice."""
        found: list[list[np.ndarray]] = [[np.zeros(0, np.int64)] for _ in range(3)]
        for number, ref, part in args["pairs"]:
            table = read.range(ref, part)
            rows = table["row"].to_numpy().astype(np.int64)
            inside = (rows >= args["start"]) & (rows < args["stop"])
            queries = table["query"].to_numpy().astype(np.int64)[inside]
            found[0].append(np.full(len(queries), number, np.int64))
            found[1].append(queries)
            found[2].append(rows[inside])
        shards, queries, rows = (np.concatenate(parts) for parts in found)
        return shards, queries, rows

    def _query_tokens(self, used: np.ndarray, refs: dict[int, FileRef], read: Reader) -> Tokens:
        """Tokens of the used queries (query shard << 32 | row, ascending), in that order."""
        parts = [pa.array([], schemas.TOKENS.field("tokens").type)]
        for number, ref in sorted(refs.items()):
            if ref.sha256 not in self._queries:
                self._queries[ref.sha256] = Tokens.from_arrow(read.table(ref)["tokens"])
            mine = used[used >> 32 == number] & 0xFFFFFFFF
            parts.append(self._queries[ref.sha256].take(mine).to_arrow())
        return Tokens.from_arrow(pa.concat_arrays(parts))


def stage(
    dataset: str,
    name: str,
    scattered: Manifest,
    document_tokens: Manifest,
    query_tokens: Manifest,
    model: ResolvedModel,
    unit_tokens: int | str,
) -> Stage:
    """Assembles the stage for one rerank step."""
    length = model.max_length_tokens
    return Stage(
        name=name,
        version=VERSION,
        dataset=dataset,
        identity={"of": scattered.path, "tokens": document_tokens.path, "model": model.identity()},
        tasks=plan(scattered, document_tokens, query_tokens, unit_tokens, length),
        worker=WorkerSpec(Worker, {"model": model.to_dict()}),
        schemas={"scores": schemas.SCORES},
        pool="model",
    )
