"""Searches groups of index shards and keeps each query's best of the group.

In: query vectors (and terms), index shards. Out: `candidates`, partial lists exact-scored and
merged within the group; where BM25 is searched too, the best of both lists with both scores.
Cardinality: one shard per query shard and group. Knows nothing about: texts, other groups.

A group is as many index shards as one worker may hold (`search.memory_bytes`): at 80 M documents
and 5 M queries that is some 800 tasks, where one per index shard would be tens of thousands.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.retrieval import faiss_index
from pipelines.retrieval.bm25 import Postings
from pipelines.retrieval.first_stage import OpenShard, search_both, search_group
from pipelines.runtime.stage import Stage, Task, WorkerSpec
from pipelines.stages.embed import to_numpy
from pipelines.storage import ordinals, schemas
from pipelines.storage.dataset import Manifest, Payload, Record
from pipelines.storage.reader import Reader
from pipelines.tokens import Tokens

VERSION = 2
# The number that an index generation gives its only segment.
SEGMENT = 0
# Of a posting in memory: its row and its impact.
POSTING_BYTES = 8


def groups(index: Manifest, embeddings: Manifest, memory_bytes: int) -> list[list[int]]:
    """Runs of index shards that one worker holds: the index, its rows and the raw vectors."""
    total_vectors = sum(ref.size for ref in embeddings.files("vectors"))
    total_rows = max(1, index.rows("rows"))
    runs: list[list[int]] = []
    held = 0.0
    for number, shard in enumerate(index.shards):
        rows = shard.files["rows"]
        size = shard.files["index"].size + rows.size + total_vectors * rows.rows / total_rows
        size += POSTING_BYTES * shard.stats.get("postings", 0)
        if not runs or held + size > memory_bytes:
            runs.append([])
            held = 0.0
        runs[-1].append(number)
        held += size
    return runs


def plan(
    queries: Manifest,
    terms: Manifest | None,
    index: Manifest,
    embeddings: Manifest,
    memory_bytes: int,
) -> tuple[Task, ...]:
    """Query shards x groups; tasks of one group share an affinity."""
    tasks = []
    query_terms = terms.files("tokens") if terms else [None] * len(queries.shards)
    vectors = embeddings.files("vectors")
    for number, run in enumerate(groups(index, embeddings, memory_bytes)):
        shards = [_parts(index.shards[i]) for i in run]
        for query_shard, of_shard in zip(queries.shards, query_terms, strict=True):
            args = {
                "queries": query_shard.files["vectors"],
                "terms": of_shard,
                "group": shards,
                "vectors": vectors,
                "segment": SEGMENT,
            }
            name = f"{query_shard.shard}.group-{number:05d}"
            tasks.append(Task(name, args, affinity=f"group-{number:05d}"))
    return tuple(tasks)


def _parts(shard: Record) -> tuple[Any, Any, Any]:
    return shard.files["index"], shard.files["rows"], shard.files.get("postings")


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
        schema = schemas.CANDIDATES
        if task.args["terms"]:
            schema = schemas.PARTIALS
            terms = Tokens.from_arrow(read.table(task.args["terms"])["tokens"]).take(rows)
            found = search_both(vectors, terms, self._open, self._depth, self._parameters)
        else:
            found = search_group(vectors, self._open, self._depth, self._parameters)
        queries = rows[found["query"].to_numpy()]
        at = found.schema.get_field_index("query")
        table = found.set_column(at, "query", pa.array(queries, pa.int32()))
        table = table.select(schema.names).cast(schema)
        stats = {"rate_rows": len(rows), "rate_unit": "queries", "candidates": table.num_rows}
        return Payload({"candidates": table}, stats)

    def _open_group(self, task: Task, read: Reader) -> None:
        key = tuple(index.sha256 for index, _, _ in task.args["group"])
        if key == self._key:
            return
        self._open, self._key = [], ()  # Frees the old group before the new one is read.
        for index_ref, rows_ref, postings_ref in task.args["group"]:
            index = faiss_index.read(read.local(index_ref))
            rows = read.table(rows_ref)
            local = rows["ordinal"].to_numpy()
            vectors = faiss_index.flat_vectors(index)
            if vectors is None:
                vectors = _vectors(task, read, local)
            places = ordinals.pack(task.args["segment"], 0, local)
            ids = pc.cast(rows["doc_id"], pa.string()).combine_chunks()
            postings = to_postings(read.table(postings_ref), len(ids)) if postings_ref else None
            self._open.append(OpenShard(index, places, ids, vectors, postings))
        self._key = key


def _vectors(task: Task, read: Reader, local: np.ndarray) -> np.ndarray:
    """The stored vectors of an index shard, in its order (it covers whole document shards)."""
    shards = np.unique(ordinals.shard_key(local)).tolist()
    parts = [to_numpy(read.table(task.args["vectors"][s]))[1] for s in shards]
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def to_postings(table: pa.Table, documents: int) -> Postings:
    """The postings of an index shard as `build_index` writes them."""
    rows = Tokens.from_arrow(table["rows"])
    impacts = table["impacts"].combine_chunks().flatten().to_numpy()
    return Postings(table["term"].to_numpy(), rows.offsets, rows.ids, impacts, documents)


def stage(
    dataset: str,
    queries: Manifest,
    terms: Manifest | None,
    index: Manifest,
    embeddings: Manifest,
    memory_bytes: int,
    settings: dict[str, Any],
) -> Stage:
    """Assembles the stage; `settings` are depth and search_parameters, `terms` the queries'."""
    return Stage(
        name="search",
        version=VERSION,
        dataset=dataset,
        identity={"queries": queries.path, "index": index.path, **settings},
        tasks=plan(queries, terms, index, embeddings, memory_bytes),
        worker=WorkerSpec(Worker, settings),
        schemas={"candidates": schemas.PARTIALS if terms else schemas.CANDIDATES},
        pool="index",
    )
