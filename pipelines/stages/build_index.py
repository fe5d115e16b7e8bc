"""Fills the trained template with vectors: one FAISS file per index shard.

In: the template, document vectors, documents' ids. Out: `index` and `rows` (ordinal and doc_id of
every vector, in the index's order). Cardinality: one shard per run of whole document shards up to
`index.shard_bytes`. Knows nothing about: queries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.errors import NightrankError
from pipelines.retrieval import faiss_index
from pipelines.runtime.stage import Stage, Task, WorkerSpec
from pipelines.stages.embed import to_numpy
from pipelines.storage import ordinals, schemas
from pipelines.storage.dataset import Blob, Manifest, Payload, shard_names
from pipelines.storage.reader import Reader

VERSION = 1


def plan(
    embeddings: Manifest, documents: Manifest, template: Manifest, shard_bytes: int
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
    for name, run in zip(shard_names(len(runs)), runs, strict=True):
        parts = [(shard, vectors[shard], texts[shard]) for shard in run]
        tasks.append(Task(name, {"template": template.files("template")[0], "parts": parts}))
    return tuple(tasks)


class Worker:
    """Adds vectors to a copy of the template."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        faiss_index.use_threads(threads)

    def __call__(self, task: Task, read: Reader) -> Payload:
        """Row i of `rows` is vector i of the index."""
        matrices = []
        rows = [schemas.INDEX_ROWS.empty_table()]
        for shard, vectors_ref, documents_ref in task.args["parts"]:
            local, vectors = to_numpy(read.table(vectors_ref))
            doc_ids = read.table(documents_ref, ["doc_id"])["doc_id"].take(pa.array(local))
            places = pa.array(ordinals.pack(0, shard, local.astype(np.int64)))
            rows.append(pa.table([places, doc_ids], schema=schemas.INDEX_ROWS))
            matrices.append(vectors)
        matrix = np.concatenate(matrices)
        template = faiss_index.read(read.local(task.args["template"]))
        index, device = faiss_index.build(template, matrix)

        def check(path: str) -> None:
            found = faiss_index.read(path).ntotal
            if found != len(matrix):
                what = f"index reopened with {found} vectors, {len(matrix)} were added"
                raise NightrankError("E_CORRUPT", what, task.shard, "run the same command again")

        blob = Blob(lambda file: faiss_index.write(index, file), check, "faiss")
        files = {"index": blob, "rows": pa.concat_tables(rows)}
        stats = {"rate_rows": len(matrix), "rate_unit": "vectors", "built_on": device}
        return Payload(files, stats)


def stage(
    dataset: str,
    embeddings: Manifest,
    documents: Manifest,
    template: Manifest,
    shard_bytes: int,
) -> Stage:
    """Assembles the stage."""
    return Stage(
        name="build index",
        version=VERSION,
        dataset=dataset,
        identity={"of": embeddings.path, "template": template.path},
        tasks=plan(embeddings, documents, template, shard_bytes),
        worker=WorkerSpec(Worker, {}),
        schemas={"rows": schemas.INDEX_ROWS},
        pool="index",
    )
