"""What has changed since the last run, as a run would count it; the lake is not written to.

The ingest and delta stages of both inputs run in this process, into a temporary lake (about 100
bytes a row) that is deleted afterwards. Datasets of this plan that the lake has already are read
from there instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.flow.offline_rerank import stages_of
from nightrank.generations import accounting
from nightrank.generations.corpus import Corpus, load_corpus, manifest_at
from nightrank.generations.planning import Plan
from nightrank.runtime.executor import SerialExecutor, run_stage
from nightrank.runtime.progress import Progress
from nightrank.runtime.stage import Stage
from nightrank.stages import delta, distinct, ingest
from nightrank.storage.dataset import Dataset, FileRef, Manifest
from nightrank.storage.ranges import Range
from nightrank.storage.reader import Reader
from nightrank.storage.store import Store


@dataclass(frozen=True)
class DocumentChanges:
    """The corpus compared with the indexed one; `living` documents count after the run."""

    rows: int
    added: int
    changed: int
    removed: int
    living: int

    @property
    def new(self) -> int:
        """Documents that are in no segment yet."""
        return self.added + self.changed


@dataclass(frozen=True)
class QueryChanges:
    """The queries compared with those of the generation that a run builds on.

    Attributes:
        rows: rows that were read.
        queries: query_ids that count.
        added: of them, new.
        changed: of them, with another text than before.
        removed: query_ids that are no longer in the input.
        texts: distinct texts.
        new_texts: of them, new ones.
    """

    rows: int
    queries: int
    added: int
    changed: int
    removed: int
    texts: int
    new_texts: int


def document_changes(plan: Plan, store: Store, scratch: Store) -> DocumentChanges:
    """Counts what has changed in the corpus.

    Args:
        plan: the run.
        store: its lake.
        scratch: an empty local lake.

    Raises:
        NightrankError: as the run itself would refuse the input.
    """
    base = plan.usable_base
    corpus = load_corpus(store, base) if base else Corpus()
    if base and plan.corpus_is_indexed:
        rows = manifest_at(store, base.ingest).total("rows_in")
        return DocumentChanges(rows, 0, 0, 0, corpus.size())
    config, names = plan.config, ("added", "changed", "removed", "unchanged")
    source, options = config.corpus, config.storage_options
    read = ingest.Inputs.of(plan.source_id, source, plan.corpus_splits, options)
    ingested = _computed(ingest.STAGE.stage(plan.segment, read), store, scratch)
    accounting.check_input("corpus", source, ingested)
    inputs = delta.Inputs("corpus", ingested, source.duplicates, corpus.current(), source.feed)
    compared = Dataset(store, delta.STAGE.dataset(plan.segment, inputs)).manifest()
    if compared is not None:
        counts = {name: compared.total(name) for name in names}
    else:
        stage = delta.STAGE.stage(plan.segment, inputs)
        counts = _compared(stage, ingested, store, scratch, names)
    living = counts["unchanged"] + counts["added"] + counts["changed"]
    rows = ingested.total("rows_in")
    return DocumentChanges(rows, counts["added"], counts["changed"], counts["removed"], living)


def _computed(stage: Stage, store: Store, scratch: Store) -> Manifest:
    """A stage's dataset from the lake, or else computed in the temporary lake."""
    if done := Dataset(store, stage.dataset).manifest():
        return done
    return run_stage(stage, scratch, SerialExecutor(), Progress(quiet=True))


def _compared(
    stage: Stage, ingested: Manifest, store: Store, scratch: Store, names: Sequence[str]
) -> dict[str, int]:
    """The delta stage's counts; its tables are dropped."""
    worker = stage.worker.make(stage.worker.settings, 1)
    read = _Both(store, scratch, {ref.key for ref in ingested.files("ids")})
    totals = dict.fromkeys(names, 0)
    for task in stage.tasks:
        stats = worker(task, read).stats
        for name in names:
            totals[name] += int(stats[name])
    return totals


class _Both(Reader):
    """Reads the lake, and files of the temporary lake from there."""

    def __init__(self, store: Store, scratch: Store, keys: set[str]) -> None:
        super().__init__(store)
        here = {key for key in keys if scratch.exists(key)}
        self._here, self._scratch = here, Reader(scratch)

    def ranges(self, ref: FileRef, adjacent: Sequence[Range]) -> pa.Table:
        """See `Reader.ranges`."""
        if ref.key in self._here:
            return self._scratch.ranges(ref, adjacent)
        return super().ranges(ref, adjacent)


def query_changes(plan: Plan, store: Store, scratch: Store) -> QueryChanges:
    """Counts what has changed in the queries; see `document_changes`."""
    config = plan.config
    source, options, folder = config.queries, config.storage_options, plan.queries
    judged = plan.qrels.url if plan.qrels and source.only_judged else None
    splits, source_id = plan.query_splits, plan.query_source_id
    read = ingest.Inputs.of(source_id, source, splits, options, judged)
    policy = "first" if source.on_dup_query == "reject" else "error"
    rows = config.layout.query_shard_rows

    def texts_in(lake: Store) -> tuple[Manifest, Manifest]:
        """Ingest and distinct of the queries, computed in this lake where it lacks them."""
        ingested = _computed(ingest.STAGE.stage(folder, read), lake, lake)
        accounting.check_input("queries", source, ingested)
        inputs = delta.Inputs("queries", ingested, policy)
        compared = _computed(delta.STAGE.stage(folder, inputs), lake, lake)
        grouped = distinct.Inputs(ingested, compared, rows, source)
        return ingested, _computed(distinct.STAGE.stage(folder, grouped), lake, lake)

    at = store if _has_distinct(plan, store) else scratch
    ingested, grouped = texts_in(at)
    now = _texts(grouped, at)
    rows_in, texts = ingested.total("rows_in"), pc.count_distinct(now["text"]).as_py()
    if plan.earlier is None:
        return QueryChanges(rows_in, len(now), len(now), 0, 0, texts, texts)
    before = _texts(manifest_at(store, plan.earlier.datasets.distinct), store)
    place = pc.index_in(now["id"], before["id"])
    known = place.is_valid()
    same = pc.equal(before["text"].take(place.filter(known)), now["text"].filter(known))
    changed = len(same) - (pc.sum(same).as_py() or 0)
    stayed = pc.sum(known).as_py() or 0
    fresh = now.filter(pc.invert(pc.is_in(now["text"], before["text"])))
    new_texts = pc.count_distinct(fresh["text"]).as_py()
    removed = len(before) - stayed
    return QueryChanges(rows_in, len(now), len(now) - stayed, changed, removed, texts, new_texts)


def _has_distinct(plan: Plan, store: Store) -> bool:
    """Whether the lake has the distinct queries of this plan."""
    planned = stages_of(plan, store, "distinct") if plan.scope != "index" else []
    return any(stage.name == "distinct" and stage.complete for stage in planned)


def _texts(manifest: Manifest, store: Store) -> pa.Table:
    """Every query_id (`id`) and the hash of its text (`text`), by a `distinct` manifest."""
    read, parts = Reader(store), []
    for shard in manifest.shards:
        members = read.table(shard.files["members"], ["query_id", "query"])
        hashes = read.table(shard.files["queries"], ["query_hash"])["query_hash"]
        parts.append(pa.table({"id": members["query_id"], "text": hashes.take(members["query"])}))
    if not parts:
        return pa.table({"id": pa.array([], pa.string()), "text": pa.array([], pa.binary(16))})
    return pa.concat_tables(parts).combine_chunks()


def plain(counts: DocumentChanges | QueryChanges) -> dict[str, int]:
    """The counts by name, for JSON."""
    return {name: int(np.int64(value)) for name, value in asdict(counts).items()}
