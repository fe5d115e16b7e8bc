"""Tokens and BM25's terms of documents and queries, made once for all that read them."""

from __future__ import annotations

from nightrank.flow.run import Run
from nightrank.generations.corpus import Segment
from nightrank.models.protocols import ResolvedModel
from nightrank.stages import terms, tokenize
from nightrank.storage.dataset import Manifest


def document_tokens(run: Run, segment: Segment, model: ResolvedModel) -> Manifest:
    """Tokens of a segment's documents; models with one tokenizer share them."""
    inputs = tokenize.Inputs.of(segment.documents, "documents", model)
    return run.complete(tokenize.STAGE, segment.path, inputs, "tokenize documents", quiet=True)


def document_terms(run: Run, segment: Segment) -> Manifest | None:
    """BM25's terms of a segment's documents; None where it has no weight."""
    bm25 = run.plan.config.retrieve.bm25
    if not bm25.weight:
        return None
    inputs = terms.Inputs(segment.documents, "documents", bm25.language)
    return run.complete(terms.STAGE, segment.path, inputs, "terms of documents", quiet=True)


def query_tokens(run: Run, distinct: Manifest, model: ResolvedModel) -> Manifest:
    """Tokens of the queries; models with one tokenizer share them."""
    inputs = tokenize.Inputs.of(distinct, "queries", model)
    # Once a run is reported: later steps of the same tokenizer find it complete.
    is_encoder = model is run.plan.encoder
    return run.complete(
        tokenize.STAGE, run.plan.queries, inputs, "tokenize queries", quiet=not is_encoder
    )


def query_terms(run: Run, distinct: Manifest) -> Manifest | None:
    """BM25's terms of the queries; None where it has no weight."""
    bm25 = run.plan.config.retrieve.bm25
    if not bm25.weight:
        return None
    inputs = terms.Inputs(distinct, "queries", bm25.language)
    return run.complete(terms.STAGE, run.plan.queries, inputs, "terms of queries")
