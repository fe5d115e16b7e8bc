"""Entries of the two logs as values: an index generation, and a result generation.

A log stores plain JSON (`storage.log`); here it has types. `body` gives what is stored.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from nightrank.storage.log import Entry


@dataclass(frozen=True)
class SegmentEntry:
    """One segment of an index generation.

    Attributes:
        number: its number in ordinals.
        path: its folder.
        rows: rows of its documents, tombstoned ones included.
        documents: path of the dataset.
        embeddings: path of the dataset.
        index: path of the dataset.
        versions: of the stages that wrote its documents.
    """

    number: int
    path: str
    rows: int
    documents: str
    embeddings: str
    index: str
    versions: dict[str, int]


@dataclass(frozen=True)
class TemplateEntry:
    """The index template that all indexes of a generation are filled from.

    Attributes:
        path: of the dataset.
        key: what it depends on beside the documents.
        documents_seen: documents when it was trained.
        documents_changed: documents added, changed or removed since.
        factory: of FAISS.
        search_parameters: of FAISS.
        choice: how the factory was chosen: sampled, recall, reason, trials.
    """

    path: str
    key: str
    documents_seen: int
    documents_changed: int
    factory: str
    search_parameters: str
    choice: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CompactedEntry:
    """Segments that were merged: the new one's number and documents, the old numbers, why."""

    number: int
    documents: str
    of: list[int]
    reason: str


@dataclass(frozen=True)
class IndexEntry:
    """An index generation.

    Attributes:
        base: the generation that it was made from, 0 for none.
        source_id: what documents of one text are made of.
        corpus_id: the corpus: its input, and of a change feed all inputs before it.
        files_id: the input's files.
        ingest: path of the dataset.
        delta: path of the dataset.
        segments: oldest first.
        tombstones: paths of `delta` datasets whose tombstones count.
        next_segment: number of the next segment.
        template: the index template.
        encoder: identity of the model.
        vectors_key: see `stage_order.vectors_key`.
        compacted: set where the generation only merges segments.
        generation: its number, 0 while it is not published.
    """

    base: int
    source_id: str
    corpus_id: str
    files_id: str
    ingest: str
    delta: str
    segments: tuple[SegmentEntry, ...]
    tombstones: tuple[str, ...]
    next_segment: int
    template: TemplateEntry
    encoder: dict[str, Any]
    vectors_key: str
    compacted: CompactedEntry | None
    generation: int = 0

    @staticmethod
    def of(entry: Entry) -> IndexEntry:
        """A log entry as a value."""
        body = {name: entry.body[name] for name in _INDEX_FIELDS}
        body["segments"] = tuple(SegmentEntry(**one) for one in body["segments"])
        body["tombstones"] = tuple(body["tombstones"])
        body["template"] = TemplateEntry(**body["template"])
        if body["compacted"]:
            body["compacted"] = CompactedEntry(**body["compacted"])
        return IndexEntry(**body, generation=entry.generation)

    def body(self) -> dict[str, Any]:
        """What the log stores."""
        plain = asdict(self)
        del plain["generation"]
        plain |= {"segments": list(plain["segments"]), "tombstones": list(self.tombstones)}
        return {"kind": "publish", **plain}

    def datasets(self) -> list[str]:
        """The datasets that the generation cannot do without."""
        paths = [*self.tombstones, self.template.path, self.ingest, self.delta]
        for segment in self.segments:
            paths += [segment.documents, segment.embeddings, segment.index]
        return paths


_INDEX_FIELDS = tuple(name for name in IndexEntry.__dataclass_fields__ if name != "generation")


@dataclass(frozen=True)
class ResultDatasets:
    """Paths of a result generation's datasets; `candidates` only the next run needs."""

    ingest: str
    delta: str
    distinct: str
    embeddings: str
    candidates: str
    rank: str
    rejects: str
    changes: str

    def read(self) -> list[str]:
        """Those that the generation cannot be read without."""
        return [path for name, path in asdict(self).items() if name not in CARRIED]


# Datasets of a result generation that only the next run needs.
CARRIED = ("candidates", "embeddings")


@dataclass(frozen=True)
class ResultsEntry:
    """A result generation, as runs and readers of the lake use it.

    Attributes:
        plan_id: of the run's plan.
        versions: of all stages.
        folder: of the run's own datasets.
        epoch: how often the plan was run after another plan's publication.
        index_generation: what was ranked against.
        queries: folder of the queries.
        datasets: paths.
        config: the semantic config.
        models: identities: the encoder, then the rerankers.
        stored_models: paths of the models' files in the lake.
        lists_key: what first-stage lists depend on beside documents and queries.
        vectors_key: see `stage_order.vectors_key`.
        stores: paths of `rerank` datasets with known scores, by `stage_order.scores_key`.
        run_number: how many runs before built on each other.
        recall: of the approximate index, as measured; None where it is exact.
        precision: by rerank step, what its precision changes in the best 10.
        cut: inputs that were longer than their model takes.
        unfinished: why not all was scored; empty otherwise.
        rerank_depth: how deep the last step has scored.
        changes_since: the generation that `changes` is compared with, 0 for none.
        stage_seconds: wall seconds by stage.
    """

    plan_id: str
    versions: dict[str, int]
    folder: str
    epoch: int
    index_generation: int
    queries: str
    datasets: ResultDatasets
    config: dict[str, Any]
    models: list[dict[str, Any]]
    stored_models: list[str]
    lists_key: str
    vectors_key: str
    stores: dict[str, list[str]]
    run_number: int
    recall: float | None
    precision: dict[str, dict[str, Any]]
    cut: list[dict[str, Any]]
    unfinished: str
    rerank_depth: int
    changes_since: int
    stage_seconds: dict[str, float]
    generation: int = 0
    files: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @staticmethod
    def of(entry: Entry) -> ResultsEntry:
        """A log entry as a value."""
        body = {name: entry.body[name] for name in _RESULT_FIELDS}
        body["datasets"] = ResultDatasets(**body["datasets"])
        return ResultsEntry(**body, generation=entry.generation)

    def body(self) -> dict[str, Any]:
        """What the log stores, but files and counts."""
        plain = asdict(self)
        del plain["generation"], plain["files"]
        return plain

    def read_datasets(self) -> list[str]:
        """The datasets that the generation cannot be read without, beside those of its index."""
        # A file that was published before is named where it lies.
        keys = (file["key"] for files in self.files.values() for file in files)
        return [*self.datasets.read(), *{key.rpartition("/_data/")[0] for key in keys}]

    def reused_datasets(self) -> list[str]:
        """What a later run takes over: lists, vectors of queries and pair scores."""
        stores = [path for paths in self.stores.values() for path in paths]
        return [self.datasets.candidates, self.datasets.embeddings, *stores]


_RESULT_FIELDS = tuple(name for name in ResultsEntry.__dataclass_fields__ if name != "generation")
