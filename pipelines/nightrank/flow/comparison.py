"""Compares a night with the published generation, before it is published.

Not with the newest index: that changes with nights that were held back, with `reindex` alone and
after a rollback, and many small changes of it could add up to one that the gate would refuse.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nightrank.datasets.current_corpus import CurrentCorpus
from nightrank.errors import NightrankError
from nightrank.flow.run import Run
from nightrank.generations import corpus as generations
from nightrank.generations import gate
from nightrank.generations.gate import Measured, Removals
from nightrank.generations.results import manifests_of
from nightrank.stages import changes, evaluate, removals
from nightrank.storage.dataset import Dataset, Manifest
from nightrank.storage.log import Entry, Log
from nightrank.storage.reader import Reader


def compare(job: Run) -> None:
    """Compares the new lists with those that are published now."""
    job.standing = Log(job.store, "results").current()
    body = job.standing.body if job.standing else {}
    # Published already, by a concurrent run or before a crash: the same comparison as then.
    if body.get("folder") == job.plan.folder and body.get("rerank_depth") == job.depth():
        number = body["changes_since"]
        job.standing = Log(job.store, "results").read(number) if number else None
    earlier, since = None, 0
    if job.standing:
        since = job.standing.generation
        earlier = generations.manifest_at(job.store, job.standing.body["datasets"]["rank"])
    stage = changes.stage(f"{job.at_depth('changes')}-{since}", job.made["ranked"], earlier)
    job.stage("changes", stage)


def refuse_removals(job: Run) -> None:
    """Ends a run whose corpus is too far from the published one, before anything is embedded.

    Raises:
        NightrankError: E_GATE, unless the operator gave a reason to publish it.
    """
    published = Log(job.store, "results").current()
    if job.plan.scope == "index" and job.plan.corpus_stands:
        return  # Nothing is published then.
    if (found := _removals(job, published)) and not job.force_publish:
        gate.refuse([gate.deletions(job.plan.config.gate, found)])


def examine(job: Run, body: dict[str, Any]) -> dict[str, Any]:
    """Measures the night and compares it with the limits.

    Raises:
        NightrankError: E_GATE, unless the operator gave a reason to publish it.
    """
    config, made = job.plan.config, job.made
    measured = _measured(job, body)
    counts = {kind: body["counts"][kind] for kind in ("documents", "queries")}
    ingested = made["corpus.ingest"], made["queries.ingest"]
    found = gate.examine(
        config.gate, counts, made["changes"], made["candidates"], measured, ingested
    )
    if removed := _removals(job, job.standing):
        found.insert(0, gate.deletions(config.gate, removed))
    kept = [finding for finding in found if finding.passed]
    job.progress.note(f"gate: {len(kept)} of {len(found)} limits kept")
    if not job.force_publish:
        gate.refuse(found)
    return gate.described(found, job.force_publish)


def _removals(job: Run, published: Entry | None) -> Removals | None:
    """Documents of the published corpus that are not in this run's.

    Before the first publication the newest index is compared instead: the first night after
    `reindex` is compared with that index.

    Args:
        job: the run; of a change feed, once its new segment is part of the corpus.
        published: the result generation that readers see.

    Returns:
        None where there is nothing to compare with.
    """
    plan, base = job.plan, job.plan.usable_base
    number = published.body["index_generation"] if published else 0
    if number in job.removals:
        return job.removals[number]
    if published is None and base is None:
        return None
    is_base = base is not None and number in (0, base.generation)
    found: Removals | None = None
    if is_base and plan.corpus_stands:
        found = Removals(0, job.corpus.living())
    elif is_base:
        delta = job.made["corpus.delta"]
        removed = delta.total("removed")
        found = Removals(removed, removed + delta.total("changed") + delta.total("unchanged"))
    # The count is known; the ids are looked up only to show examples.
    if found is None or not gate.deletions(plan.config.gate, found).passed:
        entry = Log(job.store, "index").read(number) if number else base
        assert entry is not None
        before = generations.load_corpus(job.store, entry).standing()
        stage = removals.stage(plan.own_folder, before, _after(job))
        made = job.stage("removals", stage)
        examples = [doc_id for shard in made.shards for doc_id in shard.stats["examples"]]
        found = Removals(made.total("removed"), made.total("before"), tuple(examples))
    job.removals[number] = found
    return found


def _after(job: Run) -> CurrentCorpus:
    """The corpus of this run; that of a whole input is known by its ids, before rows are read."""
    if job.plan.corpus_stands or job.plan.config.corpus.feed:
        return job.corpus.standing()
    return CurrentCorpus({0: job.made["corpus.ingest"]})


def _measured(job: Run, body: dict[str, Any]) -> Measured | None:
    """The first measure of both generations; None without judgements of the queries of both."""
    qrels, config, published = job.plan.qrels, job.plan.config, job.standing
    if qrels is None:
        return None
    made = job.made["ranked"], job.made["distinct"], job.corpus.standing()

    def evaluated(name: str, of: dict[str, Any], manifests: Any) -> Manifest:
        options = config.storage_options
        stage = evaluate.stage(of, manifests, config.evaluate, qrels, options, config.name)
        return Dataset(job.store, stage.dataset).manifest() or job.stage(name, stage)

    try:
        now = evaluated("evaluation", body, made)
        if published is None:
            return None
        # If judgements or measures have changed since, the published lists are evaluated again.
        before = evaluated(
            "evaluation of what is published", published.body, manifests_of(job.store, published)
        )
    except NightrankError as error:
        cause = error.__cause__ if isinstance(error.__cause__, NightrankError) else error
        if cause.code != "E_EMPTY":
            raise
        job.progress.note(f"no measure is compared: {cause.what}")
        return None
    name = config.evaluate.measures[0]
    then, today = (m.shards[0].stats["measures"][name]["reranked"] for m in (before, now))
    return Measured(name, then, today, _drops(job, name, before, now))


def _drops(
    job: Run, name: str, before: Manifest, now: Manifest
) -> tuple[tuple[str, float, float], ...]:
    """The queries of both whose value fell most: query_id, value before, value now."""
    read, values = Reader(job.store), list[dict[str, float]]()
    for made in (before, now):
        table = read.table(made.shards[0].files["per_query"])
        is_wanted = pc.and_(pc.equal(table["measure"], name), pc.equal(table["run"], "reranked"))
        rows: pa.Table = table.filter(is_wanted)
        ids, measured = (rows[column].to_pylist() for column in ("query_id", "value"))
        values.append(dict(zip(ids, measured, strict=True)))
    then, today = values
    fallen = sorted((today[i] - then[i], i) for i in then if i in today and today[i] < then[i])
    return tuple((i, round(then[i], 4), round(today[i], 4)) for _, i in fallen[: gate.EXAMPLES])
