"""From the queries and an index to published results, reusing what earlier nights found."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

from nightrank.datasets.fan_out import Published
from nightrank.datasets.lists import PreviousLists
from nightrank.errors import NightrankError
from nightrank.flow import comparison, publication
from nightrank.flow.index_half import embeddings_of
from nightrank.flow.run import Run
from nightrank.generations import accounting
from nightrank.generations import corpus as generations
from nightrank.generations.planning import Plan
from nightrank.retrieval.carried_lists import kept_rows
from nightrank.stages import carry, delta, distinct, embed, ingest, merge, rank, rerank, search
from nightrank.storage.dataset import Dataset, Manifest
from nightrank.storage.fingerprint import fingerprint
from nightrank.storage.log import Entry


def take_in(job: Run) -> None:
    """Ingest and delta of the queries."""
    plan, config = job.plan, job.plan.config
    judged = plan.qrels.url if plan.qrels and config.queries.only_judged else None
    path, options = f"{plan.queries}/ingest", config.storage_options
    before = f"{plan.earlier.body['queries']}/ingest" if plan.earlier else ""
    earlier = Dataset(job.store, before).manifest() if before and before != path else None
    splits, source_id = plan.query_splits, plan.query_source_id
    made = ingest.stage(path, config.queries, splits, options, source_id, judged, earlier)
    ingested = job.stage("queries.ingest", made)
    accounting.check_input("queries", config.queries, ingested)
    if job.goes_on_to("delta"):
        keep = "first" if config.queries.on_dup_query == "reject" else "error"
        stage = delta.stage(f"{plan.queries}/delta", "queries", ingested, keep)
        job.stage("queries.delta", stage)


def run(job: Run) -> Entry | None:
    """Distinct, tokenize, embed, carry, search, merge, rerank, rank, changes, publish.

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
        job.query_tokens(plan.encoder)
        job.query_terms()
    if job.goes_on_to("embed"):
        _embed(job)
    if job.goes_on_to("carry"):
        _retrieve(job)
    if job.goes_on_to("rerank"):
        _rerank(job)
    if job.goes_on_to("changes"):
        comparison.compare(job)
    return publication.publish_run(job) if job.goes_on_to("publish") else None


def _embed(job: Run) -> None:
    """Embeddings of the distinct queries; a text that was asked before keeps its vector."""
    plan, model = job.plan, job.plan.encoder
    tokens, key = job.query_tokens(model), fingerprint(model.identity())
    path, known = f"{plan.queries}/embeddings-{key}", None
    if plan.earlier and plan.earlier.body["queries"] != plan.queries:
        folder = plan.earlier.body["queries"]
        before = [
            Dataset(job.store, f"{folder}/{name}").manifest()
            for name in ("distinct", f"embeddings-{key}")
        ]
        if before[0] and before[1]:
            known = embed.KnownVectors(job.made["distinct"], before[0], before[1])
    made = job.stage("queries.embeddings", embed.stage(path, "queries", tokens, model, known))
    accounting.check_vectors("queries", made, tokens.rows("tokens"), model)


def _retrieve(job: Run) -> None:
    """Lists of all queries: carried over and completed where they stand, else searched."""
    plan, config, made, index = job.plan, job.plan.config, job.made, job.index
    assert index is not None
    key, carried = publication.lists_key(config, job.template), None
    found = generations.previous_lists(job.store, plan.earlier, index, key)
    if found and plan.earlier:
        carried = _carry(job, *found)
    searched = search.SearchInputs(embeddings_of(job.corpus), tuple(job.corpus.standing().dead()))
    if job.goes_on_to("search"):
        job.stage("partials", _search(job, "search", searched, carried))
    if job.goes_on_to("merge"):
        steps, weight = config.rerank, config.retrieve.bm25.weight
        head, path = steps[0].depth if steps else 0, f"{plan.folder}/candidates"
        depth, partials = config.retrieve.depth, made["partials"]
        stage = merge.stage(path, made["distinct"], partials, depth, head, weight, carried)
        job.stage("candidates", stage)


def _search(
    job: Run, name: str, searched: search.SearchInputs, chosen: Manifest | None = None
) -> Any:
    config = job.plan.config
    settings = {
        "depth": kept_rows(config.retrieve.depth),
        "search_parameters": job.template["search_parameters"],
    }
    # How much one worker holds is no part of the plan, but decides which partial lists there are.
    memory_bytes = config.search.memory_bytes
    path = f"{job.plan.folder}/{name}-{fingerprint({'memory_bytes': memory_bytes})}"
    queries, terms = job.made["queries.embeddings"], job.query_terms()
    told = name.replace("_", " ")
    return search.stage(path, queries, terms, searched, memory_bytes, settings, chosen, told)


def _carry(job: Run, before: PreviousLists, known: set[int]) -> Manifest:
    """Searches the segments that are new for all queries and carries the standing lists over."""
    plan, config = job.plan, job.plan.config
    assert plan.earlier is not None
    new = {n: made for n, made in embeddings_of(job.corpus).items() if n not in known}
    dead = job.corpus.standing().dead()
    found = job.stage("new", _search(job, "search_new", search.SearchInputs(new, tuple(dead))))
    settings = {
        "depth": config.retrieve.depth,
        "hybrid": config.retrieve.bm25.weight > 0,
        "audit_nights": config.nightly.audit_nights,
        "night": plan.earlier.body["night"],
        "segments": [part.number for part in job.corpus.segments],
    }
    stage = carry.stage(
        f"{plan.folder}/carried", job.made["distinct"], before, found, dead, settings
    )
    return job.stage("carried", stage)


def _rerank(job: Run) -> None:
    """Every step: score where the documents live, gather by query."""
    steps = job.plan.config.rerank
    lists, file = job.made["candidates"], "candidates"
    for number in range(len(steps)):
        scores = _score(job, number, lists)
        # A later step rescores the head of this one's list: that order belongs to reranking.
        if number + 1 < len(steps) or job.goes_on_to("rank"):
            lists, file = _rank(job, number, lists, file, scores), "pool"
    if not steps and job.goes_on_to("rank"):
        _rank(job, -1, lists, file, [])


def _score(job: Run, number: int, lists: Manifest) -> list[Manifest]:
    """The scores of one step; of the last one in bands of depth where the plan has such.

    Raises:
        NightrankError: E_BUDGET, unless a part of the depth is to be published.
    """
    plan, step, model = job.plan, job.plan.config.rerank[number], job.plan.steps[number]
    scored, done = _scored(job, number, lists), []
    bands = bands_of(plan, number)
    for low, high, name in bands:
        path = f"{plan.folder}/scores-{number}" + ("" if len(bands) == 1 else f"-to-{high}")
        band = dataclasses.replace(scored, ranks=(low, high), head=step.depth)
        stage = rerank.stage(path, name, band, model, step.unit_tokens)
        try:
            made = job.stage(f"scores.{number}.{high}", stage)
            accounting.check_scores(made, model)
            done.append(made)
        except NightrankError as error:
            deepest = plan.config.budget.on_budget == "publish_depth" and low > 0
            if error.code != "E_BUDGET" or not deepest:
                raise
            what = f"{error.what}; published at a depth of {low}"
            job.cut_short = NightrankError(error.code, what, error.where, error.do)
            job.reached = low
            break
    return done


def bands_of(plan: Plan, number: int) -> list[tuple[int, int, str]]:
    """The stages of one step: ranks above `low` up to `high`, and what the stage is called."""
    step = plan.config.rerank[number]
    inner = plan.bands if number + 1 == len(plan.steps) else ()
    edges = [0, *sorted({band for band in inner if band < step.depth}), step.depth]
    if len(edges) == 2:
        return [(0, step.depth, step.name)]
    return [(low, high, f"{step.name} {low + 1}-{high}") for low, high in itertools.pairwise(edges)]


def _scored(job: Run, number: int, lists: Manifest) -> rerank.RerankInputs:
    """The pairs of one step, and where earlier nights' scores of the same model lie."""
    plan, model = job.plan, job.plan.steps[number]
    stores: list[Manifest] = []
    origins: dict[int, Manifest] = {}
    assert job.index is not None
    if plan.earlier:
        steps = generations.lineage(job.store, job.index, plan.earlier.body["index_generation"])
        if steps is not None:
            key = fingerprint(model.identity())
            paths = plan.earlier.body["stores"].get(key, [])
            found = [Dataset(job.store, path).manifest() for path in paths]
            # Of a generation that was rolled back to, `gc` may have taken some.
            stores = [made for made in found if made is not None]
            origins = dict(generations.moves(job.store, steps) or ())
    tokens = {part.number: job.document_tokens(part, model) for part in job.corpus.segments}
    keep_all = bool(origins) or len(stores) >= plan.config.nightly.store_files
    return rerank.RerankInputs(
        lists,
        job.made["distinct"],
        job.query_tokens(model),
        tokens,
        tuple(stores),
        origins,
        keep_all,
        checked=rerank.to_check(job.made["distinct"], model, tuple(stores)),
    )


def _rank(job: Run, number: int, lists: Manifest, file: str, scores: list[Manifest]) -> Manifest:
    """Gathers the scores of one step; after the last also makes what is published."""
    plan, config, steps = job.plan, job.plan.config, job.plan.config.rerank
    depths = [step.depth for step in steps]
    if job.reached:
        depths[-1] = job.reached
    settings = rank.Settings(
        tuple(step.name for step in steps),
        number,
        depths[number] if steps else 0,
        plan.weight(number) if steps else 0.0,
        steps[number + 1].depth if number + 1 < len(steps) else 0,
        config.retrieve.bm25.weight > 0,
    )
    published = Published(
        job.made["distinct"],
        job.made["queries.embeddings"],
        job.corpus.made("documents"),
        config.queries,
        config.corpus,
        config.results.keep,
        tuple(config.results.document_columns),
        "+".join(f"{s.name}@{d}" for s, d in zip(steps, depths, strict=True)) or "first_stage",
    )
    path = job.at_depth("rank") if settings.is_last else f"{plan.folder}/rank-{number}"
    final = published if settings.is_last else None
    made = job.stage("ranked", rank.stage(path, lists, file, scores, settings, final))
    if steps and (measured := _precision(plan, number, made)):
        job.precision[steps[number].name] = measured
    return made


def _precision(plan: Plan, number: int, ranked: Manifest) -> dict[str, Any] | None:
    """What a step's precision changes: as just measured, else as it was under the same model."""
    model = plan.steps[number]
    if measured := ranked.shards[0].stats.get("precision"):
        return {"precision": model.precision, **measured}
    earlier = plan.earlier.body if plan.earlier else {}
    if model.precision == "fp32" or fingerprint(model.identity()) not in earlier.get("stores", {}):
        return None
    found: dict[str, Any] | None = earlier.get("precision", {}).get(plan.config.rerank[number].name)
    return found
