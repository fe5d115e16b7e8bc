"""The queries: ingested, distinct texts tokenised and embedded."""

from __future__ import annotations

from nightrank.flow.run import Run
from nightrank.flow.tokens import query_terms, query_tokens
from nightrank.flow.values import Queries, Rows
from nightrank.generations import accounting
from nightrank.generations.stage_order import vectors_key
from nightrank.stages import delta, distinct, embed, ingest
from nightrank.storage.dataset import Dataset, Manifest


def ingest_queries(run: Run) -> Manifest:
    """Every row of the queries, read and checked."""
    plan, config = run.plan, run.plan.config.queries
    judged = plan.qrels.url if plan.qrels and config.only_judged else None
    earlier = Dataset(run.store, plan.earlier.datasets.ingest).manifest() if plan.earlier else None
    inputs = ingest.Inputs.of(
        plan.query_source_id,
        config,
        plan.query_splits,
        plan.config.storage_options,
        judged,
        earlier,
    )
    ingested = run.complete(ingest.STAGE, plan.queries, inputs, "ingest queries")
    run.report.query_rows = ingested
    run.check(accounting.check_input, "queries", config, ingested)
    return ingested


def compare_queries(run: Run, ingested: Manifest) -> Rows:
    """Delta: the queries that count."""
    plan, config = run.plan, run.plan.config.queries
    policy = "first" if config.on_dup_query == "reject" else "error"
    compared = delta.Inputs("queries", ingested, policy)
    return Rows(ingested, run.complete(delta.STAGE, plan.queries, compared, "delta queries"))


def update_queries(run: Run, rows: Rows) -> Queries:
    """Distinct, tokenize, terms, embed; a text that was asked before keeps its vector."""
    plan, config = run.plan, run.plan.config
    grouped = distinct.Inputs(
        rows.ingested, rows.changes, config.layout.query_shard_rows, config.queries
    )
    texts = run.complete(distinct.STAGE, plan.queries, grouped)
    tokens = query_tokens(run, texts, plan.encoder)
    terms = query_terms(run, texts)
    inputs = embed.Inputs(tokens, "queries", plan.encoder, _known_vectors(run, texts))
    embeddings = run.complete(embed.STAGE, plan.queries, inputs, "embed queries")
    run.check(accounting.check_vectors, "queries", embeddings, tokens.rows("tokens"), plan.encoder)
    return Queries(rows, texts, embeddings, terms)


def _known_vectors(run: Run, texts: Manifest) -> embed.KnownVectors | None:
    """Vectors of the generation that the run builds on, where the same encoder made them."""
    earlier = run.plan.earlier
    if earlier is None or earlier.vectors_key != vectors_key(run.plan.encoder):
        return None
    before = Dataset(run.store, earlier.datasets.distinct).manifest()
    embedded = Dataset(run.store, earlier.datasets.embeddings).manifest()
    return embed.KnownVectors(texts, before, embedded) if before and embedded else None
