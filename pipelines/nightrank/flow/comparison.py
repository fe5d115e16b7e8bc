"""Compares a run with the published generation, before it is published.

Not with the newest index: that changes with runs that were held back, with `reindex` alone and
after a rollback, and many small changes of it could add up to one that the gate would refuse.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nightrank.datasets.current_corpus import CurrentCorpus
from nightrank.errors import NightrankError
from nightrank.flow.bands import scored_depth
from nightrank.flow.run import Run
from nightrank.flow.values import Index, Lists, Queries, Rows
from nightrank.generations import gate
from nightrank.generations.corpus import (
    Corpus,
    current_results,
    index_generation,
    load_corpus,
    manifest_at,
)
from nightrank.generations.entries import ResultsEntry
from nightrank.generations.evaluations import evaluation_stage, rejects_of
from nightrank.generations.gate import Measured, Removals
from nightrank.generations.results import manifests_of
from nightrank.inputs.splits import InputFile
from nightrank.runtime.stage import Stage
from nightrank.stages import changes, removals
from nightrank.storage.dataset import Dataset, FileRef, Manifest
from nightrank.storage.log import Log
from nightrank.storage.reader import Reader


def published_results(run: Run, reached: int | None) -> ResultsEntry | None:
    """The generation that the new lists are compared with.

    Published already, by a concurrent run or before a crash: the one of the same comparison then.
    """
    plan, published = run.plan, current_results(run.store)
    same = published and (published.folder, published.versions) == (plan.folder, plan.versions)
    if published and same and published.rerank_depth == scored_depth(plan, reached):
        number = published.changes_since
        return ResultsEntry.of(Log(run.store, "results").read(number)) if number else None
    return published


def compare(run: Run, lists: Lists, published: ResultsEntry | None) -> Manifest:
    """What the new lists change in the published ones."""
    earlier = manifest_at(run.store, published.datasets.rank) if published else None
    return run.complete(changes.STAGE, run.plan.folder, changes.Inputs(lists.latest, earlier))


def refuse_removals(run: Run, rows: Rows, corpus: Corpus) -> None:
    """Ends a run whose corpus is too far from the published one, before anything is embedded.

    Args:
        run: the run.
        rows: its input.
        corpus: of a change feed, once the new segment is part of it.

    Raises:
        NightrankError: E_GATE, unless the operator gave a reason to publish it.
    """
    if run.plan.scope == "index" and run.plan.corpus_is_indexed:
        return  # Nothing is published then.
    removed = _removals(run, rows, corpus, current_results(run.store))
    if removed and not run.force_publish:
        gate.refuse([gate.deletions(run.plan.config.gate, removed)])


def examine(
    run: Run,
    results: ResultsEntry,
    body: dict[str, Any],
    lists: Lists,
    queries: Queries,
    index: Index,
    changed: Manifest,
    published: ResultsEntry | None,
) -> dict[str, Any]:
    """Measures the run and compares it with the limits.

    Args:
        run: the run.
        results: what is to be published.
        body: the same as it will be stored, with counts and files.
        lists: the final lists.
        queries: the queries.
        index: what was ranked against.
        changed: the changes stage's manifest.
        published: what readers see now.

    Raises:
        NightrankError: E_GATE, unless the operator gave a reason to publish it.
    """
    limits = run.plan.config.gate
    corpus = index.corpus.current()
    now = results, (lists.latest, queries.distinct, corpus), rejects_of(body["files"])
    measured = _measured(run, *now, published)
    counts = {kind: body["counts"][kind] for kind in ("documents", "queries")}
    ingested = index.rows.ingested, queries.rows.ingested
    findings = gate.examine(limits, counts, changed, lists.candidates, measured, ingested)
    if removed := _removals(run, index.rows, index.corpus, published):
        findings.insert(0, gate.deletions(limits, removed))
    kept = [finding for finding in findings if finding.passed]
    run.progress.note(f"gate: {len(kept)} of {len(findings)} limits kept")
    if not run.force_publish:
        gate.refuse(findings)
    return gate.described(findings, run.force_publish)


def _removals(
    run: Run, rows: Rows, corpus: Corpus, published: ResultsEntry | None
) -> Removals | None:
    """Documents of the published corpus that are not in this run's.

    Before the first publication the newest index is compared instead: the first incremental run
    after `reindex` is compared with that index.

    Returns:
        None where there is nothing to compare with.
    """
    plan, base = run.plan, run.plan.usable_base
    number = published.index_generation if published else 0
    if number in run.removals:
        return run.removals[number]
    if published is None and base is None:
        return None
    counted: Removals | None = None
    if base and number in (0, base.generation):
        if plan.corpus_is_indexed:
            counted = Removals(0, corpus.size())
        else:
            removed = rows.changes.total("removed")
            kept = rows.changes.total("changed") + rows.changes.total("unchanged")
            counted = Removals(removed, removed + kept)
    # The count is known; the ids are looked up only to show examples.
    if counted is None or not gate.deletions(plan.config.gate, counted).passed:
        entry = index_generation(run.store, number) if number else base
        assert entry is not None
        before = load_corpus(run.store, entry).current()
        inputs = removals.Inputs(before, _after(run, rows, corpus))
        compared = run.complete(removals.STAGE, plan.own_folder, inputs)
        examples = [doc_id for shard in compared.shards for doc_id in shard.stats["examples"]]
        counted = Removals(compared.total("removed"), compared.total("before"), tuple(examples))
    run.removals[number] = counted
    return counted


def _after(run: Run, rows: Rows, corpus: Corpus) -> CurrentCorpus:
    """The corpus of this run; that of a whole input is known by its ids, before rows are read."""
    if run.plan.corpus_is_indexed or run.plan.config.corpus.feed:
        return corpus.current()
    return CurrentCorpus({0: rows.ingested})


def _measured(
    run: Run,
    results: ResultsEntry,
    manifests: tuple[Manifest, Manifest, CurrentCorpus],
    rejects: list[FileRef],
    published: ResultsEntry | None,
) -> Measured | None:
    """The first measure of both generations; None without judgements of the queries of both."""
    config, qrels = run.plan.config, run.plan.qrels
    if qrels is None:
        return None
    try:
        stage = evaluation_stage(results, manifests, rejects, config, qrels)
        now = _evaluated(run, "evaluation", stage)
        if published is None:
            return None
        # If judgements or measures have changed since, the published lists are evaluated again.
        stage = _stage_of(run, published, qrels)
        before = _evaluated(run, "evaluation of what is published", stage)
    except NightrankError as error:
        cause = error.__cause__ if isinstance(error.__cause__, NightrankError) else error
        if cause.code != "E_EMPTY":
            raise
        run.progress.note(f"no measure is compared: {cause.what}")
        return None
    name = config.evaluate.measures[0]
    then, today = (m.shards[0].stats["measures"][name]["reranked"] for m in (before, now))
    return Measured(name, then, today, _drops(run, name, before, now))


def _stage_of(run: Run, published: ResultsEntry, qrels: InputFile) -> Stage:
    entry = Log(run.store, "results").read(published.generation)
    manifests = manifests_of(run.store, entry)
    return evaluation_stage(
        published, manifests, rejects_of(published.files), run.plan.config, qrels
    )


def _evaluated(run: Run, label: str, stage: Stage) -> Manifest:
    existing = Dataset(run.store, stage.dataset).manifest()
    return existing or run.execute(dataclasses.replace(stage, name=label))


def _drops(
    run: Run, name: str, before: Manifest, now: Manifest
) -> tuple[tuple[str, float, float], ...]:
    """The queries of both whose value fell most: query_id, value before, value now."""
    read, values = Reader(run.store), list[dict[str, float]]()
    for evaluation in (before, now):
        table = read.table(evaluation.shards[0].files["per_query"])
        is_wanted = pc.and_(pc.equal(table["measure"], name), pc.equal(table["run"], "reranked"))
        rows: pa.Table = table.filter(is_wanted)
        ids, measured = (rows[column].to_pylist() for column in ("query_id", "value"))
        values.append(dict(zip(ids, measured, strict=True)))
    then, today = values
    fallen = sorted((today[i] - then[i], i) for i in then if i in today and today[i] < then[i])
    return tuple((i, round(then[i], 4), round(today[i], 4)) for _, i in fallen[: gate.EXAMPLES])
