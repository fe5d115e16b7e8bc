"""The index: a template that fits the corpus, every segment filled into it, the index log."""

from __future__ import annotations

from nightrank.flow import compaction
from nightrank.flow.corpus import embed_segment
from nightrank.flow.run import Run
from nightrank.flow.tokens import document_terms
from nightrank.flow.values import Documents, Index, Rows
from nightrank.generations.corpus import (
    Corpus,
    index_generation,
    load_corpus,
    manifest_at,
    published_since,
)
from nightrank.generations.entries import CompactedEntry, IndexEntry, TemplateEntry
from nightrank.generations.reuse import template_key
from nightrank.generations.stage_order import vectors_key
from nightrank.stages import build_index as building
from nightrank.stages import train_index
from nightrank.storage.dataset import Manifest

# Statistics of `train_index` that an index entry keeps.
CHOICE = ("sampled", "recall", "reason", "trials")


def build_index(run: Run, documents: Documents) -> Index:
    """Trains a template where none fits, fills it, publishes; then merges segments if due."""
    corpus, rows = documents.corpus, documents.rows
    template, trained = _train(run, corpus, rows)
    _fill(run, corpus, trained)
    entry = _entry(run, corpus, rows, template)
    entry = _publish(run, entry, corpus, run.plan.usable_base)
    merged = compaction.choose(corpus, run.plan.config.nightly)
    if run.merges and merged.segments:
        segment = compaction.merge(run, corpus, merged.segments)
        corpus = compaction.replace(corpus, merged.segments, segment)
        embed_segment(run, segment)
        _fill(run, corpus, trained)
        numbers = [old.number for old in merged.segments]
        compacted = CompactedEntry(segment.number, segment.documents.path, numbers, merged.reason)
        following = _entry(run, corpus, rows, template, entry, compacted)
        entry = _publish(run, following, corpus, entry)
    run.report.index = entry
    return Index(entry, corpus, rows)


def load_index(run: Run) -> Index:
    """The plan's index generation without changes, for results alone."""
    base = run.plan.usable_base
    assert base is not None  # Planning has refused anything else.
    rows = Rows(manifest_at(run.store, base.ingest), manifest_at(run.store, base.delta))
    run.report.index = base
    run.report.corpus_rows, run.report.corpus_changes = rows.ingested, rows.changes
    return Index(base, load_corpus(run.store, base), rows)


def _train(run: Run, corpus: Corpus, rows: Rows) -> tuple[TemplateEntry, Manifest]:
    """Keeps the current template while it fits, else trains one on all segments."""
    plan, config, key = run.plan, run.plan.config, template_key(run.plan)
    old = plan.usable_base.template if plan.usable_base else None
    if old and old.key == key:
        changed = old.documents_changed
        if not plan.corpus_is_indexed:
            counts = ("added", "changed", "removed")
            changed += sum(rows.changes.total(name) for name in counts)
        reason = _drift(run, corpus, old, changed)
        if not reason:
            manifest = manifest_at(run.store, old.path)
            return _template(manifest, key, old.documents_seen, changed), manifest
        run.progress.note(f"the index template is trained again: {reason}")
    inputs = train_index.Inputs(
        [part.vectors for part in corpus.segments],
        [terms for part in corpus.segments if (terms := document_terms(run, part))],
        config.index,
        plan.encoder.dimension,
        config.retrieve.depth,
    )
    manifest = run.complete(train_index.STAGE, "templates", inputs)
    return _template(manifest, key, corpus.size(), 0), manifest


def _template(manifest: Manifest, key: str, seen: int, changed: int) -> TemplateEntry:
    stats = manifest.shards[0].stats if manifest.shards else {}  # Pending in a dry run.
    choice = {name: stats[name] for name in CHOICE if name in stats}
    factory, parameters = stats.get("factory", ""), stats.get("search_parameters", "")
    return TemplateEntry(manifest.path, key, seen, changed, factory, parameters, choice)


def _drift(run: Run, corpus: Corpus, template: TemplateEntry, changed: int) -> str:
    """Why a template that was trained on an earlier corpus no longer fits; empty while it does."""
    limits, seen = run.plan.config.nightly, template.documents_seen
    if changed > limits.retrain_fraction * seen:
        what = f"{changed} documents were added, changed or removed since it saw {seen}"
        return f"{what}, more than nightly.retrain_fraction = {limits.retrain_fraction:g} of them"
    results = run.plan.earlier
    if results and results.recall is not None:
        index = index_generation(run.store, results.index_generation)
        if index.template.path == template.path and results.recall < limits.recall_floor:
            what = f"recall was {results.recall:g} in generation {results.generation}"
            return f"{what}, below nightly.recall_floor = {limits.recall_floor:g}"
    indexes = [part.index for part in corpus.segments if part.index]
    uneven = [shard.stats["imbalance"] or 1.0 for index in indexes for shard in index.shards]
    if max(uneven, default=1.0) > limits.max_imbalance:
        what = f"an index shard's lists are uneven by {max(uneven):.2f}"
        return f"{what}, above nightly.max_imbalance = {limits.max_imbalance:g}"
    return ""


def _fill(run: Run, corpus: Corpus, template: Manifest) -> None:
    """Fills the template with every segment that it was not filled with yet."""
    config = run.plan.config
    bm25 = config.retrieve.bm25
    k1, b = (bm25.k1, bm25.b) if bm25.weight else (0.0, 0.0)
    for part in corpus.segments:
        inputs = building.Inputs(
            part.vectors,
            part.documents,
            document_terms(run, part),
            template,
            config.index.shard_bytes,
            k1,
            b,
        )
        part.index = run.complete(building.STAGE, part.path, inputs, quiet=True)


def _entry(
    run: Run,
    corpus: Corpus,
    rows: Rows,
    template: TemplateEntry,
    base: IndexEntry | None = None,
    compacted: CompactedEntry | None = None,
) -> IndexEntry:
    plan = run.plan
    onto = base or plan.usable_base
    return IndexEntry(
        onto.generation if onto else 0,
        plan.source_id,
        plan.corpus_id,
        plan.files_id,
        rows.ingested.path,
        rows.changes.path,
        corpus.entries(),
        tuple(delta.path for delta in corpus.tombstones),
        corpus.next_number,
        template,
        plan.encoder.identity(),
        vectors_key(plan.encoder),
        compacted,
    )


def _publish(run: Run, entry: IndexEntry, corpus: Corpus, base: IndexEntry | None) -> IndexEntry:
    """Publishes the index, unless this very state was published before."""
    body = entry.body()
    # Nothing is different from the base; or a run that was interrupted had come this far.
    for published in (base, *published_since(run.store, base.generation if base else 0)):
        outside = ("base", "compacted") if published is base else ()
        if published and _without(published.body(), outside) == _without(body, outside):
            return published
    written = run.publish_index(entry)
    template = written.template
    reason = template.choice.get("reason", "")
    shards = [shard for part in corpus.segments for shard in part.indexed.shards]
    devices = ", ".join(sorted({str(shard.stats["built_on"]) for shard in shards}))
    chosen = f"{template.factory}{f' ({reason})' if reason else ''}"
    changes = f"{entry.compacted.reason}; merged; " if entry.compacted else _changes(run)
    what = f"{changes}{chosen}, built on {devices or 'nothing'}"
    run.progress.note(f"index generation {written.generation}: {what}")
    return written


def _without(body: dict[str, object], names: tuple[str, ...]) -> dict[str, object]:
    return {name: value for name, value in body.items() if name not in names}


def _changes(run: Run) -> str:
    """What changed, where there was something before."""
    changes = run.report.corpus_changes
    if not run.plan.usable_base or run.plan.corpus_is_indexed or changes is None:
        return ""
    names = ("added", "changed", "removed", "unchanged")
    return ", ".join(f"{changes.total(name)} {name}" for name in names) + "; "
