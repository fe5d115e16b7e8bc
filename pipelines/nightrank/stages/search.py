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
from nightrank.runtime.stage import Declaration, Task
from nightrank.storage import ordinals, schemas
from nightrank.storage.dataset import FileRef, Manifest, Payload, Record
from nightrank.storage.reader import Reader
from nightrank.storage.tokens import Tokens

# Of a posting in memory: its row and its impact.
POSTING_BYTES = 8
# Queries of a unit whose recall is measured where an index is approximate.
SAMPLED = 16


@dataclass(frozen=True)
class IndexedSegment:
    """Index and embeddings of a segment."""

    index: Manifest
    embeddings: Manifest


@dataclass(frozen=True)
class Inputs:
    """What is searched, and for which queries.

    Attributes:
        queries: embeddings of the distinct queries.
        terms: the queries' terms for BM25, or None.
        segments: what is searched, by the segment's number.
        tombstones: files of them; their documents take part in no list.
        depth: rows of a query's list.
        search_parameters: of FAISS.
        memory_bytes: what one worker may hold; decides which partial lists there are.
        chosen: the carry stage's, which names the queries to search; all where None.
    """

    queries: Manifest
    terms: Manifest | None
    segments: dict[int, IndexedSegment]
    tombstones: list[FileRef]
    depth: int
    search_parameters: str
    memory_bytes: int
    chosen: Manifest | None = None


@dataclass(frozen=True)
class Settings:
    """See `Inputs`."""

    depth: int
    search_parameters: str


@dataclass(frozen=True)
class GroupShard:
    """One index shard as a worker opens it.

    Attributes:
        segment: number of its segment.
        index: the FAISS file.
        rows: ordinal and doc_id of every vector.
        postings: BM25's; None without it.
        vectors: the raw vectors, by document shard.
    """

    segment: int
    index: FileRef
    rows: FileRef
    postings: FileRef | None
    vectors: list[FileRef]


@dataclass(frozen=True)
class Args:
    """One query shard against one group of index shards.

    Attributes:
        queries: vectors of the queries.
        terms: their terms.
        only: rows of the queries to search; all where None.
        group: what is searched.
        tombstones: see `Inputs`.
    """

    queries: FileRef
    terms: FileRef | None
    only: FileRef | None
    group: list[GroupShard]
    tombstones: list[FileRef]


def groups(
    segments: dict[int, IndexedSegment], memory_bytes: int
) -> list[list[tuple[int, Record]]]:
    """Runs of index shards that one worker holds: the index, its rows and the raw vectors."""
    runs: list[list[tuple[int, Record]]] = []
    held = 0.0
    for number, segment in sorted(segments.items()):
        index, embeddings = segment.index, segment.embeddings
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


def tasks(inputs: Inputs) -> list[Task[Args]]:
    """Query shards x groups; tasks of one group share an affinity."""
    shards = inputs.queries.shards
    covered = {n: _covered(one.index, one.embeddings) for n, one in inputs.segments.items()}
    terms = inputs.terms.files("tokens") if inputs.terms else [None] * len(shards)
    only = inputs.chosen.files("search") if inputs.chosen else [None] * len(shards)
    units = []
    for number, run in enumerate(groups(inputs.segments, inputs.memory_bytes)):
        group = []
        for segment, record in run:
            files, vectors = record.files, covered[segment][record.shard]
            postings = files.get("postings")
            group.append(GroupShard(segment, files["index"], files["rows"], postings, vectors))
        for shard, of_shard, rows in zip(shards, terms, only, strict=True):
            if rows is not None and not rows.rows:
                continue
            args = Args(shard.files["vectors"], of_shard, rows, group, inputs.tombstones)
            affinity = f"group-{number:05d}"
            units.append(Task(f"{shard.shard}.{affinity}", args, affinity=affinity))
    return units


def _covered(index: Manifest, embeddings: Manifest) -> dict[str, list[FileRef]]:
    """Vector files by index shard: each is made of the next whole document shards, in order."""
    vectors, covered = iter(embeddings.files("vectors")), {}
    for shard in index.shards:
        mine, rows = list[FileRef](), shard.files["rows"].rows
        while rows > sum(ref.rows for ref in mine) and (ref := next(vectors, None)):
            mine.append(ref)
        covered[shard.shard] = mine
    return covered


class Worker:
    """Keeps the group it searched last open."""

    def __init__(self, settings: Settings, threads: int) -> None:
        self._depth, self._parameters = settings.depth, settings.search_parameters
        faiss_library.use_threads(threads)
        self._key: tuple[str, ...] = ()
        self._open: list[OpenShard] = []

    def __call__(self, task: Task[Args], read: Reader) -> Payload:
        """Query rows without a usable vector have no list."""
        self._open_group(task.args, read)
        rows, vectors = to_numpy(read.table(task.args.queries))
        if task.args.only:
            chosen = np.isin(rows, read.table(task.args.only)["row"].to_numpy())
            rows, vectors = rows[chosen], vectors[chosen]
        schema = schemas.partials(task.args.terms is not None)
        if task.args.terms:
            terms = Tokens.from_arrow(read.table(task.args.terms)["tokens"]).take(rows)
            lists = search_both(vectors, terms, self._open, self._depth, self._parameters)
        else:
            lists = search_group(vectors, self._open, self._depth, self._parameters)
            names = [DENSE if name == "score" else name for name in lists.column_names]
            lists = lists.rename_columns(names)
        queries = rows[lists["query"].to_numpy()]
        at = lists.schema.get_field_index("query")
        table = lists.set_column(at, "query", pa.array(queries, pa.int32()))
        table = table.select(schema.names).cast(schema)
        stats: dict[str, Any] = {"rate_rows": len(rows), "rate_unit": "queries"}
        stats["candidates"] = table.num_rows
        if any(faiss_library.flat_vectors(shard.index) is None for shard in self._open):
            sample = vectors[:SAMPLED]
            hits, wanted = recall(sample, self._open, self._depth, self._parameters)
            stats |= {"recall_hits": hits, "recall_wanted": wanted}
        return Payload({"candidates": table}, stats)

    def _open_group(self, args: Args, read: Reader) -> None:
        key = tuple(shard.index.sha256 for shard in args.group)
        key += tuple(ref.sha256 for ref in args.tombstones)
        if key == self._key:
            return
        self._open, self._key = [], ()  # Frees the old group before the new one is read.
        tombstoned = tombstoned_ordinals(args.tombstones, read)
        for shard in args.group:
            index = faiss_files.read(read.local(shard.index))
            rows = read.table(shard.rows)
            vectors = faiss_library.stored_vectors(index)
            if vectors is None:
                parts = [to_numpy(read.table(ref))[1] for ref in shard.vectors]
                vectors = np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
            places = ordinals.pack(shard.segment, 0, rows["ordinal"].to_numpy())
            ids = pc.cast(rows["doc_id"], pa.string()).combine_chunks()
            postings = None
            if shard.postings:
                postings = to_postings(read.table(shard.postings), len(ids))
            deleted = np.isin(places, tombstoned)
            excluded = deleted if deleted.any() else None
            self._open.append(OpenShard(index, places, ids, vectors, postings, excluded))
        self._key = key


def to_postings(table: pa.Table, documents: int) -> Postings:
    """The postings of an index shard as `build_index` writes them."""
    rows = Tokens.from_arrow(table["rows"])
    impacts = table["impacts"].combine_chunks().flatten().to_numpy()
    return Postings(table["term"].to_numpy(), rows.offsets, rows.ids, impacts, documents)


STAGE = Declaration(
    name="search",
    version=3,
    pool="index",
    scales_with="queries",
    tasks=tasks,
    worker=Worker,
    settings=lambda inputs: Settings(inputs.depth, inputs.search_parameters),
    schemas=lambda inputs: {"candidates": schemas.partials(inputs.terms is not None)},
)
