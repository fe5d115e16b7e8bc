"""First-stage lists of all queries: carried over where they are valid, else searched."""

from __future__ import annotations

from nightrank.datasets.lists import PreviousLists
from nightrank.flow.run import Run
from nightrank.flow.values import Index, Lists, Queries
from nightrank.generations.corpus import Segment, previous_lists
from nightrank.generations.reuse import lists_key
from nightrank.retrieval.carried_lists import kept_rows
from nightrank.stages import carry, merge, search
from nightrank.storage.dataset import Manifest


def retrieve(run: Run, queries: Queries, index: Index) -> Lists:
    """Carry, search, merge."""
    plan, config = run.plan, run.plan.config
    key = lists_key(config, index.entry.template)
    previous = previous_lists(run.store, plan.earlier, index.entry, key)
    carried = _carry(run, queries, index, *previous) if previous else None
    searched = _search_inputs(run, queries, index, index.corpus.segments, carried)
    partials = run.complete(search.STAGE, plan.folder, searched)
    merged = merge.Inputs(
        queries.distinct,
        partials,
        config.retrieve.depth,
        config.rerank[0].depth if config.rerank else 0,
        config.retrieve.bm25.weight,
        carried,
    )
    candidates = run.complete(merge.STAGE, plan.folder, merged)
    return Lists(candidates, candidates, partials)


def _search_inputs(
    run: Run,
    queries: Queries,
    index: Index,
    segments: list[Segment],
    chosen: Manifest | None = None,
) -> search.Inputs:
    config = run.plan.config
    return search.Inputs(
        queries.embeddings,
        queries.terms,
        {part.number: search.IndexedSegment(part.indexed, part.vectors) for part in segments},
        index.corpus.current().tombstone_files(),
        kept_rows(config.retrieve.depth),
        index.entry.template.search_parameters,
        config.search.memory_bytes,
        chosen,
    )


def _carry(
    run: Run, queries: Queries, index: Index, previous: PreviousLists, known: set[int]
) -> Manifest:
    """Searches new segments for all queries, and carries the lists of known segments over."""
    plan, config, corpus = run.plan, run.plan.config, index.corpus
    assert plan.earlier is not None
    new = [part for part in corpus.segments if part.number not in known]
    searched = _search_inputs(run, queries, index, new)
    partials = run.complete(search.STAGE, plan.folder, searched, "search new")
    inputs = carry.Inputs(
        queries.distinct,
        previous,
        partials,
        corpus.current().tombstone_files(),
        config.retrieve.depth,
        config.retrieve.bm25.weight > 0,
        config.nightly.audit_nights,
        plan.earlier.run_number,
        [part.number for part in corpus.segments],
    )
    return run.complete(carry.STAGE, plan.folder, inputs)
