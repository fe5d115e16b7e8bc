"""Trains the index template: an empty FAISS index that every index shard is filled from.

In: a sample of document vectors, the documents' terms where BM25 is searched too. Out: `template`,
`statistics` (BM25's, frozen with it), and in the record what was chosen and why.
Cardinality: one. Knows nothing about: shards, queries, ordinals.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from nightrank.config.schema import Index
from nightrank.datasets.vectors import to_numpy
from nightrank.retrieval import bm25, faiss_files, faiss_index, selection
from nightrank.runtime.stage import Declaration, Task
from nightrank.storage import schemas
from nightrank.storage.dataset import Blob, FileRef, Manifest, Payload
from nightrank.storage.reader import Reader
from nightrank.storage.tokens import Tokens

SEED = 20_26

# Counted for BM25: whole shards, evenly spread. Weights of terms hardly move with more.
STATISTICS_DOCUMENTS = 4_000_000


@dataclass(frozen=True)
class Inputs:
    """What the template is chosen and trained by.

    Attributes:
        embeddings: of the documents, a manifest per segment.
        terms: of the documents, a manifest per segment; none without BM25.
        index: the section of the config.
        dimension: of the vectors.
        depth: of the lists.
    """

    embeddings: list[Manifest]
    terms: list[Manifest]
    index: Index
    dimension: int
    depth: int


@dataclass(frozen=True)
class Settings:
    """See `Inputs`."""

    index: Index
    dimension: int
    depth: int


@dataclass(frozen=True)
class Args:
    """The sample and what BM25's statistics are counted from.

    Attributes:
        sample: files of vectors, and how many rows each gives.
        documents: vectors in all.
        terms: files of terms.
        bm25: whether statistics are wanted.
    """

    sample: list[tuple[FileRef, int]]
    documents: int
    terms: list[FileRef]
    bm25: bool


def tasks(inputs: Inputs) -> list[Task[Args]]:
    """One task; each embeddings shard gives its even share of the sample."""
    config = inputs.index
    refs = [ref for embedded in inputs.embeddings for ref in embedded.files("vectors")]
    total = sum(ref.rows for ref in refs)
    share = min(1.0, config.train_rows / max(total, 1))
    needed = config.factory != "Flat" and not (
        config.factory == "auto" and total <= config.flat_rows
    )
    sample = [(ref, int(np.ceil(ref.rows * share))) for ref in refs] if needed else []
    counted = _spread([ref for terms in inputs.terms for ref in terms.files("tokens")])
    return [Task("template", Args(sample, total, counted, bool(inputs.terms)))]


def _spread(shards: list[FileRef]) -> list[FileRef]:
    """Every n-th shard, so that they hold about `STATISTICS_DOCUMENTS` at most."""
    step = -(-sum(ref.rows for ref in shards) // STATISTICS_DOCUMENTS)
    return shards[:: max(1, step)]


class Worker:
    """Chooses a factory where asked to, then trains it."""

    def __init__(self, settings: Settings, threads: int) -> None:
        self._config, self._depth = settings.index, settings.depth
        self._dimension, self._threads = settings.dimension, threads

    def __call__(self, task: Task[Args], read: Reader) -> Payload:
        """The choice is made once, from measurements, and stays with the template."""
        sample = self._sample(task.args.sample, read)
        config, documents = self._config, task.args.documents
        factory, parameters = config.factory, config.search_parameters
        stats: dict[str, Any] = {"sampled": len(sample), "documents": documents}
        if factory == "auto":
            choice = selection.choose(
                sample,
                documents,
                config.shard_bytes // (4 * self._dimension),
                self._depth,
                config.recall_target,
                config.flat_rows,
                self._threads,
                SEED,
            )
            factory, parameters = choice.factory, parameters or choice.search_parameters
            stats |= {"recall": choice.recall, "reason": choice.reason}
            stats["trials"] = [asdict(trial) for trial in choice.trials]
        index, built = faiss_index.train(factory, sample, self._threads)
        if built != factory:  # What was asked for may not exist in what could be built.
            parameters = faiss_index.fitting_parameters(index, parameters)
        stats |= {"factory": built, "search_parameters": parameters}
        template = Blob(lambda file: faiss_files.write(index, file), extension="faiss")
        files: dict[str, Any] = {"template": template}
        if task.args.bm25:
            tables = (read.table(ref) for ref in task.args.terms)
            counted = bm25.count(Tokens.from_arrow(table["tokens"]) for table in tables)
            columns = [pa.array(counted.terms), pa.array(counted.frequencies)]
            files["statistics"] = pa.table(columns, schema=schemas.STATISTICS)
            stats["bm25"] = {"documents": counted.documents, "total_terms": counted.total_terms}
        return Payload(files, stats)

    def _sample(self, sample: list[tuple[FileRef, int]], read: Reader) -> np.ndarray:
        parts = [np.zeros((0, self._dimension), dtype=np.float32)]
        for ref, take in sample:
            _, vectors = to_numpy(read.table(ref))
            parts.append(vectors[np.linspace(0, len(vectors) - 1, take).round().astype(np.int64)])
        return np.concatenate(parts)


STAGE = Declaration(
    name="train_index",
    version=3,
    pool="index",
    scales_with="one",
    tasks=tasks,
    worker=Worker,
    settings=lambda inputs: Settings(inputs.index, inputs.dimension, inputs.depth),
    schemas=lambda inputs: {"statistics": schemas.STATISTICS} if inputs.terms else {},
)
