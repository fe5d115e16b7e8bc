"""From the corpus to a published index generation, at the cost of what changed in it."""

from __future__ import annotations

from typing import Any

from nightrank.flow import compaction, comparison
from nightrank.flow.run import Run
from nightrank.generations import accounting, publish
from nightrank.generations import corpus as generations
from nightrank.generations.corpus import Corpus, Segment, load_corpus, manifest_at
from nightrank.generations.planning import Plan
from nightrank.runtime.events import emit
from nightrank.stages import build_index, delta, embed, extract, ingest, segment, train_index
from nightrank.storage.dataset import Dataset, Manifest
from nightrank.storage.fingerprint import fingerprint
from nightrank.storage.log import Log


def take_in(job: Run) -> None:
    """Ingest and delta of the corpus: what is new, what is gone."""
    plan, config = job.plan, job.plan.config
    base = plan.usable_base
    job.corpus, job.embedded = load_corpus(job.store, base) if base else Corpus(), 0
    if plan.corpus_stands:
        for name, path in base.body["inputs"].items() if base else ():
            job.made[name] = manifest_at(job.store, path)
        if job.gate:
            comparison.refuse_removals(job)
        return
    made = ingest.stage(
        f"{plan.segment}/ingest",
        config.corpus,
        plan.corpus_splits,
        config.storage_options,
        plan.source_id,
        earlier=Dataset(job.store, base.body["inputs"]["corpus.ingest"]).manifest()
        if base
        else None,
    )
    ingested = job.stage("corpus.ingest", made)
    accounting.check_input("corpus", config.corpus, ingested)
    if job.goes_on_to("delta"):
        path, policy = f"{plan.segment}/delta", config.corpus.duplicates
        standing = job.corpus.standing()
        stage = delta.stage(path, "corpus", ingested, policy, standing, config.corpus.feed)
        job.stage("corpus.delta", stage)
        # Now, before an index without them is published. What a feed leaves alone stays: which
        # documents those are is known once its segment is part of the corpus.
        if job.gate and not config.corpus.feed:
            comparison.refuse_removals(job)


def run(job: Run) -> None:
    """Extract, segment, tokenize, embed, train, build; then the index log."""
    if job.plan.corpus_stands or _add_segment(job):
        if job.gate and job.plan.config.corpus.feed and not job.plan.corpus_stands:
            comparison.refuse_removals(job)
        for part in job.corpus.segments:
            if job.goes_on_to("tokenize"):
                job.document_tokens(part, job.plan.encoder)
                job.document_terms(part)
            if job.goes_on_to("embed"):
                _embed(job, part)
        if job.goes_on_to("train_index"):
            _train(job)
        if job.goes_on_to("build_index"):
            _build(job)
            _publish(job)
            _compact(job)


def _add_segment(job: Run) -> bool:
    """Adds what the delta found to the corpus; says whether the run goes on after that."""
    plan, config = job.plan, job.plan.config
    if not job.goes_on_to("extract"):
        return False
    ingested, changes = job.made["corpus.ingest"], job.made["corpus.delta"]
    path, options = f"{plan.segment}/rows", config.storage_options
    made = extract.stage(path, config.corpus, plan.corpus_splits, options, ingested, changes)
    rows = job.stage("extract", made)
    if not job.goes_on_to("segment"):
        return False
    wanted = config.layout.document_shard_rows
    stage = segment.stage(f"{plan.segment}/documents", config.corpus, rows, wanted)
    documents = job.stage("documents", stage)
    if changes.rows("tombstones"):
        job.corpus.tombstones.append(changes)
    # A night without a new document adds no segment; a lake has one at least, to tell its columns.
    if documents.shards or not job.corpus.segments:
        number = job.corpus.take_number()
        job.corpus.segments.append(Segment(number, plan.segment, {"documents": documents}))
    return True


def _embed(job: Run, part: Segment) -> None:
    model, tokens = job.plan.encoder, job.document_tokens(part, job.plan.encoder)
    path = f"{part.path}/embeddings-{fingerprint(model.identity())}"
    part.made.pop("documents.embeddings", None)  # The base's may be another encoder's.
    stage = embed.stage(path, "documents", tokens, model)
    made = job.of_segment(part, "documents.embeddings", stage)
    accounting.check_vectors("documents", made, tokens.rows("tokens"), model)
    base = job.plan.usable_base
    if not base or made.path not in {old["embeddings"] for old in base.body["segments"]}:
        job.embedded += made.total("encoded")


def _train(job: Run) -> None:
    """Keeps the standing template while it fits, else trains one on all segments."""
    plan, config = job.plan, job.plan.config
    settings = template_settings(plan)
    key = fingerprint(settings)
    seen, changed = 0, 0
    old = plan.usable_base.body["template"] if plan.usable_base else None
    if old:
        seen = old["documents_seen"]
        changed = old["documents_changed"] + (0 if plan.corpus_stands else _changes(job))
    fits = old is not None and old["settings"] == key
    why = _drift(job, old, changed) if old and fits else ""
    if old and fits and not why:
        job.made["template"] = manifest_at(job.store, old["path"])
    else:
        if why:
            job.progress.note(f"the index template is trained anew: {why}")
        vectors = list(job.corpus.made("documents.embeddings").values())
        terms = [made for part in job.corpus.segments if (made := job.document_terms(part))]
        of = [made.path for made in (*vectors, *terms)]
        path = f"templates/{fingerprint({'of': of, **settings})}"
        dimension, depth = plan.encoder.dimension, config.retrieve.depth
        stage = train_index.stage(path, vectors, terms, config.index, dimension, depth)
        job.stage("template", stage)
        seen, changed = job.corpus.living(), 0
    job.template = {
        "path": job.made["template"].path,
        "settings": key,
        "documents_seen": seen,
        "documents_changed": changed,
        **job.made["template"].shards[0].stats,
    }


def template_settings(plan: Plan) -> dict[str, Any]:
    """What an index template depends on beside the documents."""
    config = plan.config
    return {
        "index": config.index.model_dump(mode="json", exclude={"shard_bytes"}),
        "depth": config.retrieve.depth,
        "encoder": plan.encoder.identity(),
        "bm25": config.retrieve.bm25.language if config.retrieve.bm25.weight else None,
    }


def _drift(job: Run, template: dict[str, Any], changed: int) -> str:
    """Why a template that was trained on an earlier corpus no longer fits; empty while it does."""
    limits, seen = job.plan.config.nightly, template["documents_seen"]
    if changed > limits.retrain_fraction * seen:
        what = f"{changed} documents came or went since it saw {seen}"
        return f"{what}, more than nightly.retrain_fraction = {limits.retrain_fraction:g} of them"
    results = job.plan.earlier
    if results and results.body["recall"] is not None:
        index = Log(job.store, "index").read(results.body["index_generation"])
        recall = results.body["recall"]
        if index.body["template"]["path"] == template["path"] and recall < limits.recall_floor:
            what = f"recall was {recall:g} in generation {results.generation}"
            return f"{what}, below nightly.recall_floor = {limits.recall_floor:g}"
    indexes = [part.made["index"] for part in job.corpus.segments if "index" in part.made]
    uneven = [shard.stats["imbalance"] or 1.0 for made in indexes for shard in made.shards]
    if max(uneven, default=1.0) > limits.max_imbalance:
        what = f"an index shard's lists are uneven by {max(uneven):.2f}"
        return f"{what}, above nightly.max_imbalance = {limits.max_imbalance:g}"
    return ""


def _changes(job: Run) -> int:
    made = job.made["corpus.delta"]
    return sum(made.total(name) for name in ("added", "changed", "removed"))


def _build(job: Run) -> None:
    """Fills the template with every segment that it was not filled with yet."""
    config, template = job.plan.config, job.made["template"]
    settings: dict[str, Any] = {}
    if config.retrieve.bm25.weight:
        settings = config.retrieve.bm25.model_dump(include={"k1", "b"})
    shard_bytes = config.index.shard_bytes
    key = fingerprint({"template": template.path, "shard_bytes": shard_bytes, "bm25": settings})
    for part in job.corpus.segments:
        vectors, documents = part.made["documents.embeddings"], part.made["documents"]
        terms = job.document_terms(part)
        path = f"{part.path}/index-{key}"
        part.made.pop("index", None)  # The base's may be of another template.
        stage = build_index.stage(path, vectors, documents, terms, template, shard_bytes, settings)
        job.of_segment(part, "index", stage)


def _publish(job: Run, compacted: dict[str, Any] | None = None) -> None:
    """Publishes the index, unless this very state was published before."""
    plan, base = job.plan, job.index if compacted else job.plan.usable_base
    ingested, changes = job.made["corpus.ingest"], job.made["corpus.delta"]
    body = {
        "kind": "publish",
        "base": base.generation if base else 0,
        "source_id": plan.source_id,
        "corpus_id": plan.corpus_id,
        "files_id": plan.files_id,
        "inputs": {"corpus.ingest": ingested.path, "corpus.delta": changes.path},
        **generations.body_of(job.corpus),
        "template": job.template,
        "encoder": plan.encoder.identity(),
        "compacted": compacted,
    }
    # Nothing is different from the base; or a run that was interrupted had come this far.
    for entry in (base, *generations.after(job.store, base)):
        outside = ("base", "compacted") if entry is base else ()
        if entry and all(entry.body.get(n) == body[n] for n in body if n not in outside):
            job.index = entry
            return
    uses = generations.datasets_of(body)
    job.index = publish.publish_index(job.store, body, plan.index_watermark, uses)
    emit("index_published", generation=job.index.generation)
    chosen = job.template
    reason = f" ({chosen['reason']})" if "reason" in chosen else ""
    shards = [shard for made in job.corpus.made("index").values() for shard in made.shards]
    devices = ", ".join(sorted({str(shard.stats["built_on"]) for shard in shards}))
    what = f"{chosen['factory']}{reason}, built on {devices or 'nothing'}"
    told = compacted["reason"] + "; merged; " if compacted else _told(job)
    job.progress.note(f"index generation {job.index.generation}: {told}{what}")


def _compact(job: Run) -> None:
    """Merges segments where it is time to, as a generation of its own."""
    old, reason = compaction.choose(job.corpus, job.plan.config.nightly)
    if not old:
        return
    merged = compaction.merge(job, old)
    job.corpus = compaction.replace(job.corpus, old, merged)
    _embed(job, merged)
    _build(job)
    of = [segment.number for segment in old]
    _publish(job, {"number": merged.number, "path": merged.path, "of": of, "reason": reason})


def _told(job: Run) -> str:
    """What changed, where there was something before."""
    if not job.plan.usable_base or job.plan.corpus_stands:
        return ""
    made = job.made["corpus.delta"]
    counts = {name: made.total(name) for name in ("added", "changed", "removed", "unchanged")}
    return ", ".join(f"{count} {name}" for name, count in counts.items()) + "; "


def load(job: Run) -> None:
    """Takes the plan's index generation as it stands, for results alone."""
    base = job.plan.usable_base
    assert base is not None  # Planning has refused anything else.
    job.index = base
    job.corpus = load_corpus(job.store, base)
    job.template = base.body["template"]
    job.made["template"] = manifest_at(job.store, job.template["path"])
    for name, path in base.body["inputs"].items():
        job.made[name] = manifest_at(job.store, path)


def embeddings_of(corpus: Corpus) -> dict[int, tuple[Manifest, Manifest]]:
    """Index and embeddings of every segment: what is searched."""
    return {
        part.number: (part.made["index"], part.made["documents.embeddings"])
        for part in corpus.segments
    }
