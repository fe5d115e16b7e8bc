"""Searches groups of index shards and keeps each query's best of the group.

In: query vectors (and terms), index shards of all segments. Out: `candidates`, partial lists
exact-scored and merged within the group; where BM25 is searched too, the best of both lists with
both scores. Cardinality: one shard per query shard and group. Knows nothing about: texts, other
groups.

A group is as many index shards as one worker may hold (`search.memory_bytes`): at 80 M documents
and 5 M queries that is some 800 tasks, where one per index shard would be tens of thousands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.datasets.current_corpus import tombstoned_ordinals
from nightrank.datasets.vectors import to_numpy
from nightrank.retrieval import faiss_files, faiss_library
from nightrank.retrieval.bm25 import Postings
from nightrank.retrieval.first_stage import OpenShard, search_group
from nightrank.retrieval.hybrid import DENSE
from nightrank.retrieval.hybrid_search import search_both
from nightrank.retrieval.recall import recall
from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.storage import ordinals, schemas
from nightrank.storage.dataset import FileRef, Manifest, Payload, Record
from nightrank.storage.reader import Reader
from nightrank.storage.tokens import Tokens

VERSION = 3
# Of a posting in memory: its row and its impact.
POSTING_BYTES = 8
# Queries of a unit whose recall is measured where an index is approximate.
SAMPLED = 16


@dataclass(frozen=True)
class SearchInputs:
    """What is searched.

    Attributes:
        segments: by number, the `index` and `embeddings` manifests.
        dead: tombstone files; their documents take part in no list.
    """

    segments: dict[int, tuple[Manifest, Manifest]]
    dead: tuple[FileRef, ...] = ()


def groups(searched: SearchInputs, memory_bytes: int) -> list[list[tuple[int, Record]]]:
    """Runs of index shards that one worker holds: the index, its rows and the raw vectors."""
    runs: list[list[tuple[int, Record]]] = []
    held = 0.0
    for number, (index, embeddings) in sorted(searched.segments.items()):
        vectors = sum(ref.size for ref in embeddings.files("vectors"))
        vectors_per_row = vectors / max(1, index.rows("rows"))
        for shard in index.shards:
            rows = shard.files["rows"]
            size = shard.files["index"].size + rows.size + vectors_per_row * rows.rows
            size += POSTING_BYTES * shard.stats.get("postings", 0)
            if not runs or held + size > memory_bytes:
                runs.append([])
                held = 0.0
            runs[-1].append((number, shard))
            held += size
    return runs


def plan(
    queries: Manifest,
    terms: Manifest | None,
    searched: SearchInputs,
    memory_bytes: int,
    chosen: Manifest | None,
) -> tuple[Task, ...]:
    """Query shards x groups; tasks of one group share an affinity."""
    tasks = []
    covered = {n: _covered(*made) for n, made in searched.segments.items()}
    query_terms = terms.files("tokens") if terms else [None] * len(queries.shards)
    only = chosen.files("search") if chosen else [None] * len(queries.shards)
    for number, run in enumerate(groups(searched, memory_bytes)):
        group = [
            (n, s.files["index"], s.files["rows"], s.files.get("postings"), covered[n][s.shard])
            for n, s in run
        ]
        for query_shard, of_shard, rows in zip(queries.shards, query_terms, only, strict=True):
            if rows is not None and not rows.rows:
                continue
            args = {
                "queries": query_shard.files["vectors"],
                "terms": of_shard,
                "only": rows,
                "group": group,
                "dead": list(searched.dead),
            }
            name = f"{query_shard.shard}.group-{number:05d}"
            tasks.append(Task(name, args, affinity=f"group-{number:05d}"))
    return tuple(tasks)


def _covered(index: Manifest, embeddings: Manifest) -> dict[str, list[FileRef]]:
    """Vector files by index shard: each is made of the next whole document shards, in order."""
    vectors, found = iter(embeddings.files("vectors")), {}
    for shard in index.shards:
        mine, rows = list[FileRef](), shard.files["rows"].rows
        while rows > sum(ref.rows for ref in mine) and (ref := next(vectors, None)):
            mine.append(ref)
        found[shard.shard] = mine
    return found


class Worker:
    """Keeps the group it searched last open."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self._depth, self._parameters = config["depth"], config["search_parameters"]
        faiss_library.use_threads(threads)
        self._key: tuple[str, ...] = ()
        self._open: list[OpenShard] = []

    def __call__(self, task: Task, read: Reader) -> Payload:
        """Query rows without a usable vector have no list."""
        self._open_group(task, read)
        rows, vectors = to_numpy(read.table(task.args["queries"]))
        if task.args["only"]:
            chosen = np.isin(rows, read.table(task.args["only"])["row"].to_numpy())
            rows, vectors = rows[chosen], vectors[chosen]
        schema = schemas.partials(task.args["terms"] is not None)
        if task.args["terms"]:
            terms = Tokens.from_arrow(read.table(task.args["terms"])["tokens"]).take(rows)
            found = search_both(vectors, terms, self._open, self._depth, self._parameters)
        else:
            found = search_group(vectors, self._open, self._depth, self._parameters)
            names = [DENSE if name == "score" else name for name in found.column_names]
            found = found.rename_columns(names)
        queries = rows[found["query"].to_numpy()]
        at = found.schema.get_field_index("query")
        table = found.set_column(at, "query", pa.array(queries, pa.int32()))
        table = table.select(schema.names).cast(schema)
        stats: dict[str, Any] = {"rate_rows": len(rows), "rate_unit": "queries"}
        stats["candidates"] = table.num_rows
        if any(faiss_library.flat_vectors(shard.index) is None for shard in self._open):
            sample = vectors[:SAMPLED]
            hits, wanted = recall(sample, self._open, self._depth, self._parameters)
            stats |= {"recall_hits": hits, "recall_wanted": wanted}
        return Payload({"candidates": table}, stats)

    def _open_group(self, task: Task, read: Reader) -> None:
        key = tuple(index.sha256 for _, index, *_ in task.args["group"])
        key += tuple(ref.sha256 for ref in task.args["dead"])
        if key == self._key:
            return
        self._open, self._key = [], ()  # Frees the old group before the new one is read.
        dead = tombstoned_ordinals(task.args["dead"], read)
        for segment, index_ref, rows_ref, postings_ref, vector_refs in task.args["group"]:
            index = faiss_files.read(read.local(index_ref))
            rows = read.table(rows_ref)
            local = rows["ordinal"].to_numpy()
            vectors = faiss_library.stored_vectors(index)
            if vectors is None:
                parts = [to_numpy(read.table(ref))[1] for ref in vector_refs]
                vectors = np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
            places = ordinals.pack(segment, 0, local)
            gone = np.isin(places, dead)
            ids = pc.cast(rows["doc_id"], pa.string()).combine_chunks()
            postings = to_postings(read.table(postings_ref), len(ids)) if postings_ref else None
            buried = gone if gone.any() else None
            self._open.append(OpenShard(index, places, ids, vectors, postings, buried))
        self._key = key


def to_postings(table: pa.Table, documents: int) -> Postings:
    """The postings of an index shard as `build_index` writes them."""
    rows = Tokens.from_arrow(table["rows"])
    impacts = table["impacts"].combine_chunks().flatten().to_numpy()
    return Postings(table["term"].to_numpy(), rows.offsets, rows.ids, impacts, documents)


def stage(
    dataset: str,
    queries: Manifest,
    terms: Manifest | None,
    searched: SearchInputs,
    memory_bytes: int,
    settings: dict[str, Any],
    chosen: Manifest | None = None,
    name: str = "search",
) -> Stage:
    """Assembles the stage.

    Args:
        dataset: its folder.
        queries: embeddings of the distinct queries.
        terms: the queries' terms for BM25, or None.
        searched: segments and tombstones.
        memory_bytes: what one worker may hold.
        settings: `depth` and `search_parameters`.
        chosen: the carry stage's, which names the queries to search; all where None.
        name: as told to the operator.
    """
    return Stage(
        name=name,
        version=VERSION,
        dataset=dataset,
        identity={
            "queries": queries.path,
            "segments": {str(n): index.path for n, (index, _) in searched.segments.items()},
            "chosen": chosen.path if chosen else None,
            **settings,
        },
        tasks=plan(queries, terms, searched, memory_bytes, chosen),
        worker=WorkerSpec(Worker, settings),
        schemas={"candidates": schemas.partials(terms is not None)},
        pool="index",
    )
