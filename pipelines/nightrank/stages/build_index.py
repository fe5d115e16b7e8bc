"""Fills the trained template with vectors: one FAISS file per index shard.

In: the template, document vectors (and terms), documents' ids. Out: `index`, `rows` (ordinal and
doc_id of every vector, in the index's order) and, where BM25 is searched too, `postings`.
Cardinality: one shard per run of whole document shards up to `index.shard_bytes`. Knows nothing
about: queries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from nightrank.datasets.vectors import to_numpy
from nightrank.errors import NightrankError
from nightrank.retrieval import bm25, faiss_files, faiss_index, faiss_library
from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.storage import ordinals, schemas
from nightrank.storage.dataset import Blob, Manifest, Payload, shard_names
from nightrank.storage.reader import Reader
from nightrank.storage.tokens import Tokens

VERSION = 2


def plan(
    embeddings: Manifest,
    documents: Manifest,
    terms: Manifest | None,
    template: Manifest,
    shard_bytes: int,
) -> tuple[Task, ...]:
    """Runs of document shards whose vectors take at most `shard_bytes` (at least one shard)."""
    runs: list[list[int]] = []
    size = 0
    for shard, ref in enumerate(embeddings.files("vectors")):
        if not runs or size + ref.size > shard_bytes:
            runs.append([])
            size = 0
        runs[-1].append(shard)
        size += ref.size
    tasks = []
    vectors, texts = embeddings.files("vectors"), documents.files("documents")
    trained = template.shards[0]
    counted = (trained.files["statistics"], trained.stats["bm25"]) if terms else None
    for name, run in zip(shard_names(len(runs)), runs, strict=True):
        args = {
            "template": trained.files["template"],
            "parts": [(shard, vectors[shard], texts[shard]) for shard in run],
            "statistics": counted,
            "terms": [terms.files("tokens")[shard] for shard in run] if terms else [],
        }
        tasks.append(Task(name, args))
    return tuple(tasks)


class Worker:
    """Adds vectors to a copy of the template."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        faiss_library.use_threads(threads)
        self._bm25 = config["bm25"]

    def __call__(self, task: Task, read: Reader) -> Payload:
        """Row i of `rows` is vector i of the index."""
        matrices, kept = [], []
        rows = [schemas.INDEX_ROWS.empty_table()]
        for shard, vectors_ref, documents_ref in task.args["parts"]:
            local, vectors = to_numpy(read.table(vectors_ref))
            doc_ids = read.table(documents_ref, ["doc_id"])["doc_id"].take(pa.array(local))
            places = pa.array(ordinals.pack(0, shard, local.astype(np.int64)))
            rows.append(pa.table([places, doc_ids], schema=schemas.INDEX_ROWS))
            matrices.append(vectors)
            kept.append(local)
        matrix = np.concatenate(matrices)
        matrices.clear()
        template = faiss_files.read(read.local(task.args["template"]))
        index, device = faiss_index.build(template, matrix)
        added, held = len(matrix), [index]

        def check(path: str) -> None:
            found = faiss_files.read(path).ntotal
            if found != added:
                what = f"index reopened with {found} vectors, {added} were added"
                raise NightrankError("E_CORRUPT", what, task.shard, "run the same command again")

        # Given up once it is written: the one that is reopened takes as much memory again.
        blob = Blob(lambda file: faiss_files.write(held.pop(), file), check, "faiss")
        files = {"index": blob, "rows": pa.concat_tables(rows)}
        stats: dict[str, Any] = {"rate_rows": added, "rate_unit": "vectors"}
        stats |= {"built_on": device, "imbalance": faiss_index.imbalance(index)}
        if task.args["statistics"]:
            postings = self._postings(task, kept, read)
            files["postings"] = postings
            stats["postings"] = len(postings["rows"].chunk(0).flatten())
        return Payload(files, stats)

    def _postings(self, task: Task, kept: list[np.ndarray], read: Reader) -> pa.Table:
        """The inverted index of the same documents in the same order."""
        ref, corpus = task.args["statistics"]
        counted = read.table(ref)
        statistics = bm25.Statistics(
            corpus["documents"],
            corpus["total_terms"],
            counted["term"].to_numpy(),
            counted["documents"].to_numpy(),
        )
        parts = [
            Tokens.from_arrow(read.table(ref)["tokens"]).take(local)
            for ref, local in zip(task.args["terms"], kept, strict=True)
        ]
        built = bm25.build(Tokens.concatenate(parts), statistics, **self._bm25)
        offsets = pa.array(built.offsets.astype(np.int32))
        columns = [
            pa.array(built.terms),
            pa.ListArray.from_arrays(offsets, pa.array(built.rows)),
            pa.ListArray.from_arrays(offsets, pa.array(built.impacts)),
        ]
        return pa.table(columns, schema=schemas.POSTINGS)


def stage(
    dataset: str,
    embeddings: Manifest,
    documents: Manifest,
    terms: Manifest | None,
    template: Manifest,
    shard_bytes: int,
    bm25_settings: dict[str, float],
) -> Stage:
    """Assembles the stage; `terms` are the documents', `bm25_settings` k1 and b."""
    return Stage(
        name="build index",
        version=VERSION,
        dataset=dataset,
        identity={"of": embeddings.path, "template": template.path, "bm25": bm25_settings},
        tasks=plan(embeddings, documents, terms, template, shard_bytes),
        worker=WorkerSpec(Worker, {"bm25": bm25_settings}),
        schemas={
            "rows": schemas.INDEX_ROWS,
            **({"postings": schemas.POSTINGS} if terms else {}),
        },
        pool="index",
    )
