"""Merging segments before there are too many, or too much in them is dead.

A generation of its own: the documents are the same, they only stand elsewhere. Nothing is embedded
or tokenised again, standing lists follow by `origin`, pair scores too; older generations keep their
segments as they are.
"""

from __future__ import annotations

from nightrank.config.running import Nightly
from nightrank.flow.run import Run, tokens_name
from nightrank.generations.corpus import Corpus, Segment
from nightrank.stages import compact, copy
from nightrank.storage.dataset import Dataset, Manifest
from nightrank.storage.fingerprint import fingerprint


def choose(corpus: Corpus, limits: Nightly) -> tuple[list[Segment], str]:
    """Which segments are to be merged, and why; none on most nights.

    Where there are too many the smallest are merged, so many that half the allowed number is left:
    a merge comes every so many nights, and the largest segments stay out of it. A segment with too
    many dead is written anew.
    """
    buried, reasons = corpus.buried(), []
    rows = {s.number: s.made["documents"].rows("documents") for s in corpus.segments}
    living = {number: rows[number] - buried[number] for number in rows}
    chosen = {number for number in rows if buried[number] > limits.max_dead_fraction * rows[number]}
    if chosen:
        share = max(buried[number] / rows[number] for number in chosen)
        reasons.append(f"{share:.0%} of a segment is dead")
    if len(rows) > limits.max_segments:
        reasons.append(f"{len(rows)} segments")
        few = len(rows) - max(1, limits.max_segments // 2)
        chosen |= set(sorted(rows, key=lambda number: living[number])[: few + 1])
    merged = [segment for segment in corpus.segments if segment.number in chosen]
    return merged, ", ".join(reasons)


def merge(job: Run, old: list[Segment]) -> Segment:
    """The segment that holds the living documents of others, with all that was derived of them."""
    plan, config, corpus = job.plan, job.plan.config, job.corpus
    of = {segment.number: segment.made["documents"] for segment in old}
    buried = corpus.buried()
    living = sum(made.rows("documents") - buried[number] for number, made in of.items())
    dead = corpus.standing().dead()
    standing = [[segment.number, segment.path] for segment in old]
    key = fingerprint({"of": standing, "tombstones": [made.path for made in corpus.tombstones]})
    merged = Segment(corpus.take_number(), f"segments/{key}")
    wanted = config.layout.document_shard_rows
    path = f"{merged.path}/documents"
    stage = compact.stage(path, config.corpus, of, dead, living, wanted)
    documents = job.of_segment(merged, "documents", stage)
    for name in {tokens_name(model) for model in (plan.encoder, *plan.steps)}:
        if held := _of_all(job, old, name):
            job.of_segment(merged, name, copy.stage(f"{merged.path}/{name}", documents, held))
    if held := _of_all(job, old, name := job.terms_name()):
        made = copy.stage(f"{merged.path}/{name}", documents, held)
        job.of_segment(merged, "documents.terms", made)
    name = f"embeddings-{fingerprint(plan.encoder.identity())}"
    if held := _of_all(job, old, name):
        made = copy.stage(f"{merged.path}/{name}", documents, held, plan.encoder.dimension)
        job.of_segment(merged, "documents.embeddings", made)
    return merged


def _of_all(job: Run, old: list[Segment], name: str) -> dict[int, Manifest]:
    """One derived dataset of all these segments, or nothing where one lacks it."""
    found = {s.number: Dataset(job.store, f"{s.path}/{name}").manifest() for s in old}
    whole = {number: made for number, made in found.items() if made is not None}
    return whole if len(whole) == len(old) else {}


def replace(corpus: Corpus, old: list[Segment], merged: Segment) -> Corpus:
    """The corpus with a segment in place of others; tombstones that still bury something stay."""
    gone = {segment.number for segment in old}
    segments = [segment for segment in corpus.segments if segment.number not in gone]
    if merged.made["documents"].shards or not segments:
        segments.append(merged)
    numbers = {str(segment.number) for segment in segments}
    tombstones = [
        made
        for made in corpus.tombstones
        if any(numbers & shard.stats["buried"].keys() for shard in made.shards)
    ]
    return Corpus(segments, tombstones, corpus.next_number)
