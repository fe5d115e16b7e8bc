"""The corpus: ingested, compared, and what is new in it tokenised and embedded."""

from __future__ import annotations

from nightrank.flow import comparison
from nightrank.flow.run import Run
from nightrank.flow.tokens import document_terms, document_tokens
from nightrank.flow.values import Documents, Rows
from nightrank.generations import accounting
from nightrank.generations.corpus import Corpus, Segment, load_corpus, manifest_at
from nightrank.generations.stage_order import segment_versions
from nightrank.stages import delta, embed, extract, ingest, segment
from nightrank.storage.dataset import Dataset, Manifest


def ingest_corpus(run: Run) -> Manifest:
    """Every row of the corpus, read and checked; as indexed where the input is the same."""
    plan, config, base = run.plan, run.plan.config.corpus, run.plan.usable_base
    if base and plan.corpus_is_indexed:
        run.report.corpus_rows = manifest_at(run.store, base.ingest)
        return run.report.corpus_rows
    earlier = Dataset(run.store, base.ingest).manifest() if base else None
    inputs = ingest.Inputs.of(
        plan.source_id,
        config,
        plan.corpus_splits,
        plan.config.storage_options,
        earlier=earlier,
    )
    ingested = run.complete(ingest.STAGE, plan.segment, inputs, "ingest corpus")
    run.report.corpus_rows = ingested
    run.check(accounting.check_input, "corpus", config, ingested)
    return ingested


def compare_corpus(run: Run, ingested: Manifest) -> Rows:
    """Delta: what is new in the corpus, what was deleted from it."""
    plan, config, base = run.plan, run.plan.config.corpus, run.plan.usable_base
    corpus = current_corpus(run)
    if base and plan.corpus_is_indexed:
        rows = Rows(ingested, manifest_at(run.store, base.delta))
        run.report.corpus_changes = rows.changes
        if run.gate:
            comparison.refuse_removals(run, rows, corpus)
        return rows
    compared = delta.Inputs("corpus", ingested, config.duplicates, corpus.current(), config.feed)
    rows = Rows(ingested, run.complete(delta.STAGE, plan.segment, compared, "delta corpus"))
    run.report.corpus_changes = rows.changes
    # Before an index without the removed documents is published. What a feed leaves alone stays:
    # which documents those are is known once its segment is part of the corpus.
    if run.gate and not config.feed:
        comparison.refuse_removals(run, rows, corpus)
    return rows


def current_corpus(run: Run) -> Corpus:
    """The corpus of the index generation that the run builds on."""
    base = run.plan.usable_base
    return load_corpus(run.store, base) if base else Corpus()


def update_corpus(run: Run, rows: Rows) -> Documents:
    """Extract, segment, tokenize, terms, embed: the corpus with what the delta kept.

    Returns:
        Every segment with its embeddings.
    """
    plan, corpus = run.plan, current_corpus(run)
    if not plan.corpus_is_indexed:
        _add_segment(run, rows, corpus)
        if run.gate and plan.config.corpus.feed:
            comparison.refuse_removals(run, rows, corpus)
    for part in corpus.segments:
        document_tokens(run, part, plan.encoder)
        document_terms(run, part)
        embed_segment(run, part)
    return Documents(corpus, rows)


def _add_segment(run: Run, rows: Rows, corpus: Corpus) -> None:
    plan, config = run.plan, run.plan.config
    read = extract.Inputs(
        rows.ingested, rows.changes, config.corpus, plan.corpus_splits, config.storage_options
    )
    extracted = run.complete(extract.STAGE, plan.segment, read)
    written = segment.Inputs(extracted, config.layout.document_shard_rows, config.corpus)
    documents = run.complete(segment.STAGE, plan.segment, written)
    if rows.changes.rows("tombstones"):
        corpus.tombstones.append(rows.changes)
    # A run without a new document adds no segment; a lake has at least one, which has the columns.
    if not documents.empty or not corpus.segments:
        number, versions = corpus.take_number(), segment_versions(compacted=False)
        corpus.segments.append(Segment(number, plan.segment, documents, versions))


def embed_segment(run: Run, part: Segment) -> None:
    """Embeddings of a segment's documents, where they do not exist by this encoder."""
    plan, base = run.plan, run.plan.usable_base
    tokens = document_tokens(run, part, plan.encoder)
    inputs = embed.Inputs(tokens, "documents", plan.encoder)
    part.embeddings = run.complete(embed.STAGE, part.path, inputs, "embed documents", quiet=True)
    run.check(
        accounting.check_vectors,
        "documents",
        part.embeddings,
        tokens.rows("tokens"),
        plan.encoder,
    )
    if not base or part.embeddings.path not in {old.embeddings for old in base.segments}:
        run.report.embedded += part.embeddings.total("encoded")
