"""From the queries and an index to published results."""

from __future__ import annotations

from pipelines.index_half import embeddings
from pipelines.run import Run
from pipelines.stages import accounting, distinct, merge, publish, rank, rejects, rerank, search
from pipelines.stages.fan_out import Published
from pipelines.storage.dataset import Manifest
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.log import Entry


def run(job: Run) -> Entry | None:
    """Distinct, tokenize, embed, search, merge, rerank, rank, publish.

    Returns:
        The log entry, or None where the run was told to stop earlier.
    """
    plan, config, made = job.plan, job.plan.config, job.made
    if job.goes_on_to("distinct"):
        stage = distinct.stage(
            f"{plan.queries}/distinct",
            config.queries,
            made["queries.ingest"],
            made["queries.delta"],
            config.layout.query_shard_rows,
        )
        job.stage("distinct", stage)
    if job.goes_on_to("tokenize"):
        job.tokens("queries", plan.encoder)
        job.terms("queries")
    if job.goes_on_to("embed"):
        embeddings(job, "queries")
    if job.goes_on_to("search"):
        _search(job)
    if job.goes_on_to("merge"):
        _merge(job)
    if job.goes_on_to("rerank"):
        _rerank(job)
    return _publish(job) if job.goes_on_to("publish") else None


def _search(job: Run) -> None:
    plan, config, made = job.plan, job.plan.config, job.made
    chosen = made["template"].shards[0].stats["search_parameters"]
    settings = {"depth": config.retrieve.depth, "search_parameters": chosen}
    # How much one worker holds is no part of the plan, but decides which partial lists there are.
    memory_bytes = config.search.memory_bytes
    stage = search.stage(
        f"{plan.folder}/search-{fingerprint({'memory_bytes': memory_bytes})}",
        made["queries.embeddings"],
        job.terms("queries"),
        made["index"],
        made["documents.embeddings"],
        memory_bytes,
        settings,
    )
    job.stage("partials", stage)


def _merge(job: Run) -> None:
    depth, steps = job.plan.config.retrieve.depth, job.plan.config.rerank
    path, head = f"{job.plan.folder}/candidates", steps[0].depth if steps else 0
    weight = job.plan.config.retrieve.bm25.weight
    stage = merge.stage(path, job.made["distinct"], job.made["partials"], depth, head, weight)
    job.stage("candidates", stage)


def _rerank(job: Run) -> None:
    """Every step: score where the documents live, gather by query."""
    plan, steps = job.plan, job.plan.config.rerank
    lists, file = job.made["candidates"], "candidates"
    for number, step in enumerate(steps):
        model = plan.steps[number]
        scores = job.stage(
            f"scores.{step.name}",
            rerank.stage(
                f"{plan.folder}/scores-{number}",
                step.name,
                lists,
                job.tokens("documents", model),
                job.tokens("queries", model),
                model,
                step.unit_tokens,
            ),
        )
        # A later step rescores the head of this one's list: that order belongs to reranking.
        if number + 1 < len(steps) or job.goes_on_to("rank"):
            lists, file = _rank(job, number, lists, file, scores), "pool"
    if not steps and job.goes_on_to("rank"):
        _rank(job, -1, lists, file, None)


def _rank(job: Run, number: int, lists: Manifest, file: str, scores: Manifest | None) -> Manifest:
    """Gathers the scores of one step; after the last also makes what is published."""
    plan, config, steps = job.plan, job.plan.config, job.plan.config.rerank
    settings = rank.Settings(
        tuple(step.name for step in steps),
        number,
        steps[number].depth if steps else 0,
        plan.weight(number) if steps else 0.0,
        steps[number + 1].depth if number + 1 < len(steps) else 0,
        config.retrieve.bm25.weight > 0,
    )
    published = Published(
        job.made["distinct"],
        job.made["queries.embeddings"],
        job.made["documents"],
        config.queries,
        config.corpus,
        config.results.keep,
        tuple(config.results.document_columns),
        "+".join(f"{step.name}@{step.depth}" for step in steps) or "first_stage",
    )
    path = f"{plan.folder}/rank" if settings.is_last else f"{plan.folder}/rank-{number}"
    final = published if settings.is_last else None
    return job.stage("ranked", rank.stage(path, lists, file, scores, settings, final))


def _publish(job: Run) -> Entry:
    """Rejects, the balances, the log entry."""
    plan, made = job.plan, job.made
    sources = [
        rejects.Source(kind, splits, *(made[name] for name in names))
        for kind, splits, names in (
            (
                "corpus",
                plan.corpus_splits,
                ("corpus.ingest", "corpus.delta", "documents.embeddings", "documents"),
            ),
            (
                "queries",
                plan.query_splits,
                ("queries.ingest", "queries.delta", "queries.embeddings", "distinct"),
            ),
        )
    ]
    path = f"{plan.folder}/rejects"
    collected = job.stage("rejects", rejects.stage(path, sources, made["ranked"]))
    balances = [
        accounting.documents_balance(
            made["corpus.ingest"],
            made["corpus.delta"],
            made["documents.embeddings"],
            made["index"],
        ),
        accounting.queries_balance(made["queries.ingest"], made["queries.delta"], made["ranked"]),
    ]
    body = {
        "plan_id": plan.plan_id,
        "folder": plan.folder,
        "epoch": int(plan.folder.rpartition(".")[2]),
        "index_generation": job.index_generation,
        "queries": plan.queries,
        "segment": plan.segment,
        "config": plan.config.semantic(),
        "models": [plan.encoder.identity(), *(step.identity() for step in plan.steps)],
    }
    return publish.publish_results(
        job.store, body, balances, made["ranked"], collected, plan.watermark
    )
