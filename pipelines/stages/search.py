"""Searches groups of index shards and keeps each query's best of the group.

In: query vectors, index shards. Out: `candidates`, partial lists exact-scored and merged within the
group. Cardinality: one shard per query shard and group. Knows nothing about: texts, other groups.

A group is as many index shards as one worker may hold (`search.memory_bytes`): at 80 M documents
and 5 M queries that is some 800 tasks, where one per index shard would be tens of thousands.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.retrieval import faiss_index
from pipelines.retrieval.first_stage import OpenShard, search_group
from pipelines.runtime.stage import Stage, Task, WorkerSpec
from pipelines.stages.embed import to_numpy
from pipelines.storage import ordinals, schemas
from pipelines.storage.dataset import Manifest, Payload, Record
from pipelines.storage.reader import Reader

VERSION = 1
# The number that an index generation gives its only segment.
SEGMENT = 0


def groups(index: Manifest, embeddings: Manifest, memory_bytes: int) -> list[list[int]]:
    """Runs of index shards that one worker holds: the index, its rows and the raw vectors."""
    total_vectors = sum(ref.size for ref in embeddings.files("vectors"))
    total_rows = max(1, index.rows("rows"))
    runs: list[list[int]] = []
    held = 0.0
    for number, shard in enumerate(index.shards):
        rows = shard.files["rows"]
        size = shard.files["index"].size + rows.size + total_vectors * rows.rows / total_rows
        if not runs or held + size > memory_bytes:
            runs.append([])
            held = 0.0
        runs[-1].append(number)
        held += size
    return runs


def plan(
    queries: Manifest,
    index: Manifest,
    embeddings: Manifest,
    memory_bytes: int,
) -> tuple[Task, ...]:
    """Query shards x groups; tasks of one group share an affinity."""
    tasks = []
    vectors = embeddings.files("vectors")
    for number, run in enumerate(groups(index, embeddings, memory_bytes)):
        shards = [_parts(index.shards[i]) for i in run]
        for query_shard in queries.shards:
            args = {
                "queries": query_shard.files["vectors"],
                "group": shards,
                "vectors": vectors,
                "segment": SEGMENT,
            }
            name = f"{query_shard.shard}.group-{number:05d}"
            tasks.append(Task(name, args, affinity=f"group-{number:05d}"))
    return tuple(tasks)


def _parts(shard: Record) -> tuple[Any, Any]:
    return shard.files["index"], shard.files["rows"]


class Worker:
    """Keeps the group it searched last open."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self._depth, self._parameters = config["depth"], config["search_parameters"]
        faiss_index.use_threads(threads)
        self._key: tuple[str, ...] = ()
        self._open: list[OpenShard] = []

    def __call__(self, task: Task, read: Reader) -> Payload:
        """Query rows without a usable vector have no list."""
        self._open_group(task, read)
        rows, vectors = to_numpy(read.table(task.args["queries"]))
        found = search_group(vectors, self._open, self._depth, self._parameters)
        queries = rows[found["query"].to_numpy()]
        at = found.schema.get_field_index("query")
        table = found.set_column(at, "query", pa.array(queries, pa.int32()))
        table = table.select(schemas.CANDIDATES.names).cast(schemas.CANDIDATES)
        stats = {"rate_rows": len(rows), "rate_unit": "queries", "candidates": table.num_rows}
        return Payload({"candidates": table}, stats)

    def _open_group(self, task: Task, read: Reader) -> None:
        key = tuple(index.sha256 for index, _ in task.args["group"])
        if key == self._key:
            return
        self._open, self._key = [], ()  # Frees the old group before the new one is read.
        for index_ref, rows_ref in task.args["group"]:
            index = faiss_index.read(read.local(index_ref))
            rows = read.table(rows_ref)
            local = rows["ordinal"].to_numpy()
            vectors = faiss_index.flat_vectors(index)
            if vectors is None:
                vectors = _vectors(task, read, local)
            places = ordinals.pack(task.args["segment"], 0, local)
            ids = pc.cast(rows["doc_id"], pa.string()).combine_chunks()
            self._open.append(OpenShard(index, places, ids, vectors))
        self._key = key


def _vectors(task: Task, read: Reader, local: np.ndarray) -> np.ndarray:
    """The stored vectors of an index shard, in its order (it covers whole document shards)."""
    shards = np.unique(ordinals.shard_key(local)).tolist()
    parts = [to_numpy(read.table(task.args["vectors"][s]))[1] for s in shards]
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def stage(
    dataset: str,
    queries: Manifest,
    index: Manifest,
    embeddings: Manifest,
    memory_bytes: int,
    settings: dict[str, Any],
) -> Stage:
    """Assembles the stage; `settings` are depth and search_parameters."""
    return Stage(
        name="search",
        version=VERSION,
        dataset=dataset,
        identity={"queries": queries.path, "index": index.path, **settings},
        tasks=plan(queries, index, embeddings, memory_bytes),
        worker=WorkerSpec(Worker, settings),
        schemas={"candidates": schemas.CANDIDATES},
        pool="index",
    )
