"""Index generations as later stages need them: segments, what is dead, where it came from.

An entry of the index log names immutable segments, tombstones, and the template that all their
indexes were filled from; `base` is the generation it was made from. Results name the index
generation they were ranked against. So what of an earlier night is still good can be told from the
two logs alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nightrank.datasets.current_corpus import CurrentCorpus
from nightrank.datasets.lists import PreviousLists
from nightrank.errors import NightrankError
from nightrank.storage import ordinals
from nightrank.storage.dataset import Dataset, Manifest
from nightrank.storage.log import NO_STATE, Entry, Log
from nightrank.storage.store import Store

# Datasets of a result generation that only the next night needs.
CARRIED = ("candidates",)


@dataclass
class Segment:
    """One segment of a corpus.

    Attributes:
        number: its number in ordinals, never used twice in a line of index generations.
        path: its folder.
        made: its datasets by short name; `documents` always.
    """

    number: int
    path: str
    made: dict[str, Manifest] = field(default_factory=dict)


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
            what = f"{self.next_number} segments were made, ordinals tell no more apart"
            raise NightrankError("E_USAGE", what, "index", "begin a lake under another root")
        self.next_number += 1
        return self.next_number - 1

    def standing(self) -> CurrentCorpus:
        """What a delta compares with."""
        documents = {segment.number: segment.made["documents"] for segment in self.segments}
        return CurrentCorpus(documents, tuple(self.tombstones))

    def made(self, name: str) -> dict[int, Manifest]:
        """One dataset of every segment, by number."""
        return {segment.number: segment.made[name] for segment in self.segments}

    def buried(self) -> dict[int, int]:
        """Dead documents by segment."""
        counts = dict.fromkeys((segment.number for segment in self.segments), 0)
        for made in self.tombstones:
            for shard in made.shards:
                for number, count in shard.stats["buried"].items():
                    if int(number) in counts:
                        counts[int(number)] += count
        return counts

    def living(self) -> int:
        """Documents that count, with or without a vector."""
        rows = sum(made.rows("documents") for made in self.made("documents").values())
        return rows - sum(self.buried().values())


def load_corpus(store: Store, entry: Entry) -> Corpus:
    """The corpus of a published index generation.

    Raises:
        NightrankError: E_CORRUPT where one of its datasets is gone.
    """
    segments = []
    for plain in entry.body["segments"]:
        made = {
            "documents": manifest_at(store, f"{plain['path']}/documents"),
            "documents.embeddings": manifest_at(store, plain["embeddings"]),
            "index": manifest_at(store, plain["index"]),
        }
        segments.append(Segment(plain["number"], plain["path"], made))
    tombstones = [manifest_at(store, path) for path in entry.body["tombstones"]]
    return Corpus(segments, tombstones, entry.body["next_segment"])


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


def lineage(store: Store, entry: Entry, ancestor: int) -> list[Entry] | None:
    """The entries after index generation `ancestor` up to `entry`, oldest first.

    Returns:
        None where `entry` does not descend from it: then nothing that was found in the one can be
        taken over to the other.
    """
    log, found = Log(store, "index"), []
    while entry.generation > ancestor:
        found.append(entry)
        if not entry.body["base"]:
            return None
        entry = log.read(entry.body["base"])
    return found[::-1] if entry.generation == ancestor else None


def after(store: Store, base: Entry | None) -> list[Entry]:
    """Index generations published since `base`."""
    log = Log(store, "index")
    numbers = [number for number in log.generations() if number > (base.generation if base else 0)]
    return [e for e in map(log.read, numbers) if e.body["kind"] not in NO_STATE]


def moves(store: Store, steps: list[Entry]) -> list[tuple[int, Manifest]] | None:
    """Compactions among these entries: the new segment's number and its `documents` manifest.

    Returns:
        None where one is gone: its segment was merged again and collected since.
    """
    made = []
    for step in steps:
        if compacted := step.body["compacted"]:
            manifest = Dataset(store, f"{compacted['path']}/documents").manifest()
            if manifest is None:
                return None
            made.append((compacted["number"], manifest))
    return made


def previous_lists(
    store: Store, earlier: Entry | None, index: Entry, lists_key: str
) -> tuple[PreviousLists, set[int]] | None:
    """The standing lists of an earlier result generation, where they still mean something.

    Args:
        store: the lake.
        earlier: a result generation.
        index: the index generation that is ranked against now.
        lists_key: what lists depend on beside the documents; see `query_half`.

    Returns:
        The lists, and the numbers of the segments whose documents they know. None where another
        template, encoder or depth made them, where the index does not descend from theirs, or where
        a compaction since mixed documents that they know with others that they do not, or is gone.
    """
    if earlier is None or earlier.body["lists_key"] != lists_key:
        return None
    steps = lineage(store, index, earlier.body["index_generation"])
    if steps is None:
        return None
    before = Log(store, "index").read(earlier.body["index_generation"])
    known = {segment["number"] for segment in before.body["segments"]}
    for step in steps:
        if compacted := step.body["compacted"]:
            if not known.issuperset(compacted["of"]):
                return None
            known.add(compacted["number"])
    moved = moves(store, steps)
    if moved is None:
        return None
    distinct = manifest_at(store, f"{earlier.body['queries']}/distinct")
    merged = Dataset(store, earlier.body["datasets"]["candidates"]).manifest()
    if merged is None:  # Rolled back to, after `gc` had taken what only its next night needed.
        return None
    return PreviousLists(distinct, merged, tuple(moved)), known


def datasets_of(body: dict[str, Any]) -> list[str]:
    """The datasets that an index generation cannot do without."""
    found = [*body["tombstones"], body["template"]["path"], *body["inputs"].values()]
    for segment in body["segments"]:
        found += [f"{segment['path']}/documents", segment["embeddings"], segment["index"]]
    return found


def datasets_of_results(body: dict[str, Any]) -> list[str]:
    """The datasets that a result generation cannot be read without, beside those of its index."""
    found = [path for name, path in body["datasets"].items() if name not in CARRIED]
    found += [f"{body['queries']}/{name}" for name in ("ingest", "delta", "distinct")]
    # A file that was published before is named where it lies.
    keys = (file["key"] for files in body["files"].values() for file in files)
    return [*found, *{key.rpartition("/_data/")[0] for key in keys}]


def datasets_to_build_on(body: dict[str, Any]) -> list[str]:
    """What a later night takes over of a result generation: its lists and its pair scores."""
    stores = [path for paths in body["stores"].values() for path in paths]
    return [*(body["datasets"][name] for name in CARRIED), *stores]


def body_of(corpus: Corpus) -> dict[str, Any]:
    """What an index entry says of its corpus."""
    return {
        "segments": [
            {
                "number": segment.number,
                "path": segment.path,
                "documents": segment.made["documents"].rows("documents"),
                "embeddings": segment.made["documents.embeddings"].path,
                "index": segment.made["index"].path,
            }
            for segment in corpus.segments
        ],
        "tombstones": [made.path for made in corpus.tombstones],
        "next_segment": corpus.next_number,
    }
