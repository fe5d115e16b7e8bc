"""The corpus of an index generation, and what of earlier generations still applies to it.

An index entry names immutable segments, tombstones, and the template that all their indexes were
filled from; `base` is the generation it was made from. Results name the index generation they were
ranked against. So the two logs alone say which lists and scores of an earlier run are still valid.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nightrank.datasets.current_corpus import CurrentCorpus
from nightrank.datasets.lists import PreviousLists
from nightrank.errors import NightrankError
from nightrank.generations.entries import IndexEntry, ResultsEntry, SegmentEntry
from nightrank.storage import ordinals
from nightrank.storage.dataset import Dataset, Manifest
from nightrank.storage.log import NO_STATE, Entry, Log
from nightrank.storage.store import Store


@dataclass
class Segment:
    """One segment of a corpus.

    Attributes:
        number: its number in ordinals, never used twice in a line of index generations.
        path: its folder.
        documents: manifest of its documents.
        versions: of the stages that wrote them.
        embeddings: None until they exist.
        index: None until it exists.
    """

    number: int
    path: str
    documents: Manifest
    versions: dict[str, int]
    embeddings: Manifest | None = None
    index: Manifest | None = None

    @property
    def vectors(self) -> Manifest:
        """The embeddings, which exist."""
        assert self.embeddings is not None
        return self.embeddings

    @property
    def indexed(self) -> Manifest:
        """The index, which exists."""
        assert self.index is not None
        return self.index


@dataclass
class Corpus:
    """The corpus of one index generation.

    Attributes:
        segments: oldest first.
        tombstones: delta manifests whose tombstones count.
        next_number: what the next segment is called.
    """

    segments: list[Segment] = field(default_factory=list)
    tombstones: list[Manifest] = field(default_factory=list)
    next_number: int = 0

    def take_number(self) -> int:
        """The number of a new segment.

        Raises:
            NightrankError: E_USAGE where ordinals have no more.
        """
        if self.next_number >= ordinals.MAX_SEGMENTS:
            what = f"{self.next_number} segments were made, at most {ordinals.MAX_SEGMENTS} fit"
            raise NightrankError("E_USAGE", what, "index", "begin a lake under another root")
        self.next_number += 1
        return self.next_number - 1

    def current(self) -> CurrentCorpus:
        """What a delta compares with."""
        documents = {segment.number: segment.documents for segment in self.segments}
        return CurrentCorpus(documents, tuple(self.tombstones))

    def tombstoned(self) -> dict[int, int]:
        """Tombstoned documents by segment."""
        counts = dict.fromkeys((segment.number for segment in self.segments), 0)
        for tombstones in self.tombstones:
            for shard in tombstones.shards:
                for number, count in shard.stats["tombstoned"].items():
                    if int(number) in counts:
                        counts[int(number)] += count
        return counts

    def size(self) -> int:
        """Documents without a tombstone, with or without a vector."""
        rows = sum(segment.documents.rows("documents") for segment in self.segments)
        return rows - sum(self.tombstoned().values())

    def entries(self) -> tuple[SegmentEntry, ...]:
        """The segments as an index entry names them."""
        return tuple(
            SegmentEntry(
                segment.number,
                segment.path,
                segment.documents.rows("documents"),
                segment.documents.path,
                segment.vectors.path,
                segment.indexed.path,
                segment.versions,
            )
            for segment in self.segments
        )


def load_corpus(store: Store, entry: IndexEntry) -> Corpus:
    """The corpus of a published index generation.

    Raises:
        NightrankError: E_CORRUPT where one of its datasets is gone.
    """
    segments = [
        Segment(
            segment.number,
            segment.path,
            manifest_at(store, segment.documents),
            segment.versions,
            manifest_at(store, segment.embeddings),
            manifest_at(store, segment.index),
        )
        for segment in entry.segments
    ]
    tombstones = [manifest_at(store, path) for path in entry.tombstones]
    return Corpus(segments, tombstones, entry.next_segment)


def manifest_at(store: Store, path: str) -> Manifest:
    """The manifest of a dataset that something published depends on.

    Raises:
        NightrankError: E_CORRUPT where it is gone.
    """
    manifest = Dataset(store, path).manifest()
    if manifest is None:
        do = "it may have been removed after its retention; use a newer generation"
        raise NightrankError("E_CORRUPT", "a published dataset is gone", store.path(path), do)
    return manifest


def index_generation(store: Store, generation: int) -> IndexEntry:
    """An index generation by its number; see `Log.read`."""
    return IndexEntry.of(Log(store, "index").read(generation))


def current_results(store: Store) -> ResultsEntry | None:
    """The result generation that readers see, or None where there is none."""
    entry = Log(store, "results").current()
    return ResultsEntry.of(entry) if entry else None


def lineage(store: Store, entry: IndexEntry, ancestor: int) -> list[IndexEntry] | None:
    """The entries after index generation `ancestor` up to `entry`, oldest first.

    Returns:
        None where `entry` does not descend from it: then nothing of the one applies to the other.
    """
    steps = []
    while entry.generation > ancestor:
        steps.append(entry)
        if not entry.base:
            return None
        entry = index_generation(store, entry.base)
    return steps[::-1] if entry.generation == ancestor else None


def published_since(store: Store, base: int) -> list[IndexEntry]:
    """Index generations published after generation `base`."""
    log = Log(store, "index")
    entries: list[Entry] = [log.read(number) for number in log.generations() if number > base]
    return [IndexEntry.of(entry) for entry in entries if entry.body["kind"] not in NO_STATE]


def compactions(store: Store, steps: list[IndexEntry]) -> list[tuple[int, Manifest]] | None:
    """Compactions among these entries: the new segment's number and its documents.

    Returns:
        None where one is gone: its segment was merged again and collected since.
    """
    merged = []
    for step in steps:
        if step.compacted:
            manifest = Dataset(store, step.compacted.documents).manifest()
            if manifest is None:
                return None
            merged.append((step.compacted.number, manifest))
    return merged


def previous_lists(
    store: Store, earlier: ResultsEntry | None, index: IndexEntry, lists_key: str
) -> tuple[PreviousLists, set[int]] | None:
    """The lists of an earlier result generation, where they are still valid.

    Args:
        store: the lake.
        earlier: a result generation.
        index: the index generation that is ranked against now.
        lists_key: what lists depend on beside documents and queries; see `reuse.lists_key`.

    Returns:
        The lists, and the numbers of the segments whose documents they know. None where another
        template, encoder or depth made them, where the index does not descend from theirs, or where
        a compaction since mixed documents that they know with others that they do not, or is gone.
    """
    if earlier is None or earlier.lists_key != lists_key:
        return None
    steps = lineage(store, index, earlier.index_generation)
    if steps is None:
        return None
    known = {
        segment.number for segment in index_generation(store, earlier.index_generation).segments
    }
    for step in steps:
        if step.compacted:
            if not known.issuperset(step.compacted.of):
                return None
            known.add(step.compacted.number)
    moves = compactions(store, steps)
    if moves is None:
        return None
    distinct = manifest_at(store, earlier.datasets.distinct)
    merged = Dataset(store, earlier.datasets.candidates).manifest()
    if merged is None:  # Rolled back to, after `gc` had taken what only its next run needed.
        return None
    return PreviousLists(distinct, merged, tuple(moves)), known
