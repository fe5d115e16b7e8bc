"""Fills the trained template with vectors: one FAISS file per index shard.

In: the template, document vectors (and terms), documents' ids. Out: `index`, `rows` (ordinal and
doc_id of every vector, in the index's order) and, where BM25 is searched too, `postings`.
Cardinality: one shard per run of whole document shards up to `index.shard_bytes`. Knows nothing
about: queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from nightrank.datasets.vectors import to_numpy
from nightrank.errors import NightrankError
from nightrank.retrieval import bm25, faiss_files, faiss_index, faiss_library
from nightrank.runtime.stage import Declaration, Task
from nightrank.storage import ordinals, schemas
from nightrank.storage.dataset import Blob, FileRef, Manifest, Payload, shard_names
from nightrank.storage.reader import Reader
from nightrank.storage.tokens import Tokens


@dataclass(frozen=True)
class Inputs:
    """What the indexes of a segment are made of.

    Attributes:
        embeddings: of the documents.
        documents: for their ids.
        terms: for the postings; None without BM25.
        template: the trained index, and BM25's statistics.
        shard_bytes: vectors of an index shard at most.
        k1: of BM25.
        b: of BM25.
    """

    embeddings: Manifest
    documents: Manifest
    terms: Manifest | None
    template: Manifest
    shard_bytes: int
    k1: float
    b: float


@dataclass(frozen=True)
class Settings:
    """Parameters of BM25."""

    k1: float
    b: float


@dataclass(frozen=True)
class Part:
    """One document shard: its number, vectors, documents and terms."""

    shard: int
    vectors: FileRef
    documents: FileRef
    terms: FileRef | None


@dataclass(frozen=True)
class Args:
    """A run of document shards, the template, and BM25's statistics where there are terms."""

    template: FileRef
    parts: list[Part]
    statistics: FileRef | None
    counts: dict[str, int]


def tasks(inputs: Inputs) -> list[Task[Args]]:
    """Runs of document shards whose vectors take at most `shard_bytes` (at least one shard)."""
    runs: list[list[Part]] = []
    size = 0
    documents = inputs.documents.files("documents")
    terms = inputs.terms.files("tokens") if inputs.terms else [None] * len(documents)
    shards = zip(inputs.embeddings.files("vectors"), documents, terms, strict=True)
    for number, (vectors, texts, tokens) in enumerate(shards):
        if not runs or size + vectors.size > inputs.shard_bytes:
            runs.append([])
            size = 0
        runs[-1].append(Part(number, vectors, texts, tokens))
        size += vectors.size
    trained = inputs.template.shards[0]
    template = trained.files["template"]
    statistics = trained.files["statistics"] if inputs.terms else None
    counts = trained.stats["bm25"] if inputs.terms else {}
    return [
        Task(name, Args(template, run, statistics, counts))
        for name, run in zip(shard_names(len(runs)), runs, strict=True)
    ]


class Worker:
    """Adds vectors to a copy of the template."""

    def __init__(self, settings: Settings, threads: int) -> None:
        faiss_library.use_threads(threads)
        self._settings = settings

    def __call__(self, task: Task[Args], read: Reader) -> Payload:
        """Row i of `rows` is vector i of the index."""
        matrices, kept = [], []
        rows = [schemas.INDEX_ROWS.empty_table()]
        for part in task.args.parts:
            local, vectors = to_numpy(read.table(part.vectors))
            doc_ids = read.table(part.documents, ["doc_id"])["doc_id"].take(pa.array(local))
            places = pa.array(ordinals.pack(0, part.shard, local.astype(np.int64)))
            rows.append(pa.table([places, doc_ids], schema=schemas.INDEX_ROWS))
            matrices.append(vectors)
            kept.append(local)
        matrix = np.concatenate(matrices)
        matrices.clear()
        template = faiss_files.read(read.local(task.args.template))
        index, device = faiss_index.build(template, matrix)
        added, unwritten = len(matrix), [index]

        def check(path: str) -> None:
            held = faiss_files.read(path).ntotal
            if held != added:
                what = f"index reopened with {held} vectors, {added} were added"
                raise NightrankError("E_CORRUPT", what, task.shard, "run the same command again")

        # Given up once it is written: the one that is reopened takes as much memory again.
        blob = Blob(lambda file: faiss_files.write(unwritten.pop(), file), check, "faiss")
        files = {"index": blob, "rows": pa.concat_tables(rows)}
        stats: dict[str, Any] = {"rate_rows": added, "rate_unit": "vectors"}
        stats |= {"built_on": device, "imbalance": faiss_index.imbalance(index)}
        if task.args.statistics:
            postings = self._postings(task.args, kept, read)
            files["postings"] = postings
            stats["postings"] = len(postings["rows"].chunk(0).flatten())
        return Payload(files, stats)

    def _postings(self, args: Args, kept: list[np.ndarray], read: Reader) -> pa.Table:
        """The inverted index of the same documents in the same order."""
        assert args.statistics is not None
        counted = read.table(args.statistics)
        statistics = bm25.Statistics(
            args.counts["documents"],
            args.counts["total_terms"],
            counted["term"].to_numpy(),
            counted["documents"].to_numpy(),
        )
        parts = [
            Tokens.from_arrow(read.table(part.terms)["tokens"]).take(local)
            for part, local in zip(args.parts, kept, strict=True)
            if part.terms
        ]
        tokens, settings = Tokens.concatenate(parts), self._settings
        built = bm25.build(tokens, statistics, k1=settings.k1, b=settings.b)
        offsets = pa.array(built.offsets.astype(np.int32))
        columns = [
            pa.array(built.terms),
            pa.ListArray.from_arrays(offsets, pa.array(built.rows)),
            pa.ListArray.from_arrays(offsets, pa.array(built.impacts)),
        ]
        return pa.table(columns, schema=schemas.POSTINGS)


def schemas_of(inputs: Inputs) -> dict[str, pa.Schema]:
    """Schemas of the shards' tables."""
    postings = {"postings": schemas.POSTINGS} if inputs.terms else {}
    return {"rows": schemas.INDEX_ROWS, **postings}


STAGE = Declaration(
    name="build_index",
    version=2,
    pool="index",
    scales_with="documents",
    tasks=tasks,
    worker=Worker,
    settings=lambda inputs: Settings(inputs.k1, inputs.b),
    schemas=schemas_of,
)
