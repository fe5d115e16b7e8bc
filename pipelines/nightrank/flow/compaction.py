"""Merging segments before there are too many, or too much in them is tombstoned.

A generation of its own: the documents are the same, in other segments. Nothing is embedded or
tokenised again, existing lists follow by `origin`, pair scores too; older generations keep their
segments as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nightrank.config.running import Nightly
from nightrank.flow.run import Run
from nightrank.generations.corpus import Corpus, Segment
from nightrank.generations.planning import Plan
from nightrank.generations.stage_order import segment_versions
from nightrank.stages import compact, copy, embed, terms, tokenize
from nightrank.storage.dataset import Dataset, Manifest
from nightrank.storage.fingerprint import fingerprint


@dataclass(frozen=True)
class Choice:
    """The segments to merge, none in most runs, and why."""

    segments: list[Segment]
    reason: str


def choose(corpus: Corpus, limits: Nightly) -> Choice:
    """Which segments are to be merged.

    Where there are too many the smallest are merged, so many that half the allowed number is left:
    a merge comes every so many runs, and the largest segments stay out of it. A segment with too
    many tombstones is rewritten.
    """
    tombstoned, reasons = corpus.tombstoned(), []
    rows = {part.number: part.documents.rows("documents") for part in corpus.segments}
    limit = limits.max_dead_fraction
    chosen = {number for number in rows if tombstoned[number] > limit * rows[number]}
    if chosen:
        share = max(tombstoned[number] / rows[number] for number in chosen)
        reasons.append(f"{share:.0%} of a segment is tombstoned")
    if len(rows) > limits.max_segments:
        reasons.append(f"{len(rows)} segments")
        by_size = sorted(rows, key=lambda number: rows[number] - tombstoned[number])
        few = len(rows) - max(1, limits.max_segments // 2)
        chosen |= set(by_size[: few + 1])
    segments = [part for part in corpus.segments if part.number in chosen]
    return Choice(segments, ", ".join(reasons))


def merge(run: Run, corpus: Corpus, old: list[Segment]) -> Segment:
    """The segment that holds the documents of others, with all that was derived of them."""
    plan, config = run.plan, run.plan.config
    documents = {part.number: part.documents for part in old}
    tombstoned = corpus.tombstoned()
    current_rows = sum(
        manifest.rows("documents") - tombstoned[number] for number, manifest in documents.items()
    )
    inputs = compact.Inputs(
        documents,
        corpus.current().tombstone_files(),
        current_rows,
        config.layout.document_shard_rows,
        config.corpus,
    )
    merged_from = {
        "of": [[part.number, part.documents.path] for part in old],
        "tombstones": [delta.path for delta in corpus.tombstones],
    }
    path, number = f"segments/{fingerprint(merged_from)}", corpus.take_number()
    merged = run.complete(compact.STAGE, path, inputs)
    segment = Segment(number, path, merged, segment_versions(compacted=True))
    derived = (_derived(plan, part.path, part.documents) for part in (segment, *old))
    for target, *sources in zip(*derived, strict=True):
        copied = {
            part.number: Dataset(run.store, source.path).manifest()
            for part, source in zip(old, sources, strict=True)
        }
        complete = {number: manifest for number, manifest in copied.items() if manifest}
        if len(complete) == len(old):
            inputs_of_copy = copy.Inputs(merged, complete, target.dimension)
            label = f"copy {target.name}"
            run.complete(copy.STAGE, path, inputs_of_copy, label, target.path, quiet=True)
    return segment


@dataclass(frozen=True)
class Derived:
    """A dataset that is derived of a segment's documents; `dimension` where it holds vectors."""

    name: str
    path: str
    dimension: int | None = None


def _derived(plan: Plan, folder: str, documents: Manifest) -> Iterator[Derived]:
    """Tokens, terms and vectors of a segment, whether they exist or not."""
    for model in (plan.encoder, *plan.steps):
        tokens = tokenize.Inputs.of(documents, "documents", model)
        yield Derived("tokens", tokenize.STAGE.dataset(folder, tokens))
    words = terms.Inputs(documents, "documents", plan.config.retrieve.bm25.language)
    yield Derived("terms", terms.STAGE.dataset(folder, words))
    tokenized = tokenize.Inputs.of(documents, "documents", plan.encoder)
    vectors = embed.Inputs(tokenize.STAGE.pending(folder, tokenized), "documents", plan.encoder)
    dimension = plan.encoder.dimension
    yield Derived("vectors", embed.STAGE.dataset(folder, vectors), dimension)


def replace(corpus: Corpus, old: list[Segment], merged: Segment) -> Corpus:
    """The corpus with a segment in place of others; tombstones that still apply stay."""
    replaced = {part.number for part in old}
    segments = [part for part in corpus.segments if part.number not in replaced]
    if not merged.documents.empty or not segments:
        segments.append(merged)
    numbers = {str(part.number) for part in segments}
    tombstones = [
        delta
        for delta in corpus.tombstones
        if any(numbers & shard.stats["tombstoned"].keys() for shard in delta.shards)
    ]
    return Corpus(segments, tombstones, corpus.next_number)
