"""From the corpus to a published index generation."""

from __future__ import annotations

from pipelines.run import Run
from pipelines.stages import accounting, build_index, embed, publish, segment, train_index
from pipelines.storage.dataset import Manifest
from pipelines.storage.fingerprint import fingerprint


def run(job: Run) -> None:
    """Segment, tokenize, embed, train, build; then the index log."""
    plan, config, made = job.plan, job.plan.config, job.made
    if not job.goes_on_to("segment"):
        return
    documents = segment.stage(
        f"{plan.segment}/documents",
        config.corpus,
        made["corpus.ingest"],
        made["corpus.delta"],
        config.layout.document_shard_rows,
    )
    job.stage("documents", documents)
    if job.goes_on_to("tokenize"):
        job.tokens("documents", plan.encoder)
        job.terms("documents")
    if job.goes_on_to("embed"):
        embeddings(job, "documents")
    if job.goes_on_to("train_index"):
        _train(job)
    if job.goes_on_to("build_index"):
        _build(job)


def embeddings(job: Run, kind: str) -> Manifest:
    """Embeddings of the `documents` or the `queries`."""
    model, tokens = job.plan.encoder, job.tokens(kind, job.plan.encoder)
    folder = job.plan.segment if kind == "documents" else job.plan.queries
    path = f"{folder}/embeddings-{fingerprint(model.identity())}"
    made = job.stage(f"{kind}.embeddings", embed.stage(path, kind, tokens, model))
    accounting.check_vectors(kind, made, tokens.rows("tokens"), model)
    return made


def _train(job: Run) -> None:
    index, depth = job.plan.config.index, job.plan.config.retrieve.depth
    vectors, terms = job.made["documents.embeddings"], job.terms("documents")
    key = {
        "of": vectors.path,
        "terms": terms.path if terms else None,
        "index": index.model_dump(mode="json", exclude={"shard_bytes"}),
        "depth": depth,
    }
    dimension = job.plan.encoder.dimension
    path = f"templates/{fingerprint(key)}"
    job.stage("template", train_index.stage(path, vectors, terms, index, dimension, depth))


def _build(job: Run) -> None:
    """Fills the template and publishes the index, unless the current generation is the same."""
    plan, made, shard_bytes = job.plan, job.made, job.plan.config.index.shard_bytes
    vectors, documents, template = (
        made[name] for name in ("documents.embeddings", "documents", "template")
    )
    terms = job.terms("documents")
    settings = plan.config.retrieve.bm25.model_dump(include={"k1", "b"}) if terms else {}
    key = fingerprint({"template": template.path, "shard_bytes": shard_bytes, "bm25": settings})
    path = f"{plan.segment}/index-{key}"
    stage = build_index.stage(path, vectors, documents, terms, template, shard_bytes, settings)
    index = job.stage("index", stage)
    chosen = template.shards[0].stats
    body = {
        "kind": "publish",
        "segments": [
            {
                "number": 0,
                "path": plan.segment,
                "documents": documents.rows("documents"),
                "embeddings": vectors.path,
                "index": index.path,
            }
        ],
        "tombstones": [],
        "template": {"path": template.path, **chosen},
        "encoder": plan.encoder.identity(),
    }
    entry = publish.publish_index(job.store, body)
    reason = f" ({chosen['reason']})" if "reason" in chosen else ""
    devices = ", ".join(sorted({str(shard.stats["built_on"]) for shard in index.shards}))
    what = f"{chosen['factory']}{reason}, built on {devices or 'nothing'}"
    job.progress.note(f"index generation {entry.generation}: {what}")
    job.index_generation = entry.generation
