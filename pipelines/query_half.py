"""From the queries and an index to published results, reusing what earlier nights found."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

from pipelines import gate, generations
from pipelines.errors import NightrankError
from pipelines.index_half import embeddings_of
from pipelines.retrieval.standing import kept_rows
from pipelines.run import Run
from pipelines.stages import (
    accounting,
    carry,
    changes,
    delta,
    distinct,
    embed,
    evaluate,
    ingest,
    merge,
    publish,
    rank,
    rejects,
    rerank,
    search,
)
from pipelines.stages.fan_out import Published
from pipelines.storage.dataset import Dataset, Manifest
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.log import Entry, Log


def take_in(job: Run) -> None:
    """Ingest and delta of the queries."""
    plan, config = job.plan, job.plan.config
    judged = plan.qrels.url if plan.qrels and config.queries.only_judged else None
    path, options = f"{plan.queries}/ingest", config.storage_options
    made = ingest.stage(path, config.queries, plan.query_splits, options, judged)
    ingested = job.stage("queries.ingest", made)
    accounting.check_input("queries", config.queries, ingested)
    if job.goes_on_to("delta"):
        keep = "first" if config.queries.on_dup_query == "reject" else "error"
        stage = delta.stage(f"{plan.queries}/delta", "queries", ingested, keep)
        job.stage("queries.delta", stage)


def run(job: Run) -> Entry | None:
    """Distinct, tokenize, embed, carry, search, merge, rerank, rank, publish.

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
    return _publish(job) if job.goes_on_to("publish") else None


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
            known = embed.Known(job.made["distinct"], before[0], before[1])
    made = job.stage("queries.embeddings", embed.stage(path, "queries", tokens, model, known))
    accounting.check_vectors("queries", made, tokens.rows("tokens"), model)


def lists_key(job: Run) -> str:
    """What first-stage lists depend on beside documents and queries."""
    retrieve = job.plan.config.retrieve
    settings = retrieve.bm25.model_dump(mode="json", exclude={"weight"})
    return fingerprint(
        {
            "template": job.template["path"],
            "search_parameters": job.template["search_parameters"],
            "depth": retrieve.depth,
            "bm25": settings if retrieve.bm25.weight else None,
            "stages": [carry.VERSION, search.VERSION, merge.VERSION],
        }
    )


def _retrieve(job: Run) -> None:
    """Lists of all queries: carried over and completed where they stand, else searched."""
    plan, config, made, index = job.plan, job.plan.config, job.made, job.index
    assert index is not None
    key, carried = lists_key(job), None
    found = generations.yesterday(job.store, plan.earlier, index, key)
    if found and plan.earlier:
        carried = _carry(job, *found)
    searched = search.Searched(embeddings_of(job.corpus), tuple(job.corpus.standing().dead()))
    if job.goes_on_to("search"):
        job.stage("partials", _search(job, "search", searched, carried))
    if job.goes_on_to("merge"):
        steps, weight = config.rerank, config.retrieve.bm25.weight
        head, path = steps[0].depth if steps else 0, f"{plan.folder}/candidates"
        depth, partials = config.retrieve.depth, made["partials"]
        stage = merge.stage(path, made["distinct"], partials, depth, head, weight, carried)
        job.stage("candidates", stage)


def _search(job: Run, name: str, searched: search.Searched, chosen: Manifest | None = None) -> Any:
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


def _carry(job: Run, before: carry.Yesterday, known: set[int]) -> Manifest:
    """Searches the segments that are new for all queries and carries the standing lists over."""
    plan, config = job.plan, job.plan.config
    assert plan.earlier is not None
    new = {n: made for n, made in embeddings_of(job.corpus).items() if n not in known}
    dead = job.corpus.standing().dead()
    found = job.stage("new", _search(job, "search_new", search.Searched(new, tuple(dead))))
    settings = {
        "depth": config.retrieve.depth,
        "hybrid": config.retrieve.bm25.weight > 0,
        "audit_nights": config.nightly.audit_nights,
        "night": plan.earlier.generation,
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
    bands = plan.bands if number + 1 == len(plan.steps) else ()
    edges = [0, *sorted({band for band in bands if band < step.depth}), step.depth]
    scored, done = _scored(job, number, lists), []
    for low, high in itertools.pairwise(edges):
        whole = len(edges) == 2
        path = f"{plan.folder}/scores-{number}" + ("" if whole else f"-to-{high}")
        name = step.name if whole else f"{step.name} {low + 1}-{high}"
        band = dataclasses.replace(scored, ranks=(low, high), head=step.depth)
        stage = rerank.stage(path, name, band, model, step.unit_tokens)
        try:
            done.append(job.stage(f"scores.{number}.{high}", stage))
        except NightrankError as error:
            deepest = plan.config.budget.on_budget == "publish_depth" and low > 0
            if error.code != "E_BUDGET" or not deepest:
                raise
            what = f"{error.what}; published at a depth of {low}"
            job.cut_short = NightrankError(error.code, what, error.where, error.do)
            job.reached = low
            break
    return done


def _scored(job: Run, number: int, lists: Manifest) -> rerank.Scored:
    """The pairs of one step, and where earlier nights' scores of the same model lie."""
    plan, model = job.plan, job.plan.steps[number]
    stores, origins = [], {}
    assert job.index is not None
    if plan.earlier:
        steps = generations.lineage(job.store, job.index, plan.earlier.body["index_generation"])
        if steps is not None:
            key = fingerprint(model.identity())
            for path in plan.earlier.body.get("stores", {}).get(key, []):
                stores.append(generations.manifest_at(job.store, path))
            origins = dict(generations.moves(job.store, steps))
    tokens = {part.number: job.document_tokens(part, model) for part in job.corpus.segments}
    keep_all = bool(origins) or len(stores) >= plan.config.nightly.store_files
    return rerank.Scored(
        lists,
        job.made["distinct"],
        job.query_tokens(model),
        tokens,
        tuple(stores),
        origins,
        keep_all,
    )


def _stores(job: Run) -> dict[str, list[str]]:
    """Where the scores of every model are found by later nights."""
    found: dict[str, list[str]] = {}
    for number, model in enumerate(job.plan.steps):
        prefix, known = f"scores.{number}.", found.setdefault(fingerprint(model.identity()), [])
        for made in [made for name, made in job.made.items() if name.startswith(prefix)]:
            # What was looked up is repeated only where all depths were: else it stays needed.
            repeated = made.identity["keep_all"] and not job.cut_short
            earlier = [] if repeated else made.identity["stores"]
            known += [path for path in [*earlier, made.path] if path not in known]
    return found


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
    path = _at_depth(job, "rank") if settings.is_last else f"{plan.folder}/rank-{number}"
    final = published if settings.is_last else None
    return job.stage("ranked", rank.stage(path, lists, file, scores, settings, final))


def _at_depth(job: Run, name: str) -> str:
    """A dataset of what is published; one of its own where only a part of the depth is."""
    return f"{job.plan.folder}/{name}" + (f"-at-{job.reached}" if job.reached else "")


def _publish(job: Run) -> Entry:
    """Rejects, the balances, the log entry."""
    plan, made, corpus = job.plan, job.made, job.corpus
    texts = {
        "corpus": [
            rejects.Texts(n, part["documents.embeddings"], part["documents"])
            for n, part in ((segment.number, segment.made) for segment in corpus.segments)
        ],
        "queries": [rejects.Texts(-1, made["queries.embeddings"], made["distinct"])],
    }
    sources = [
        rejects.Source(kind, made[f"{kind}.ingest"], made[f"{kind}.delta"], texts[kind])
        for kind in ("corpus", "queries")
    ]
    dead = corpus.standing().dead()
    stage = rejects.stage(_at_depth(job, "rejects"), sources, made["ranked"], dead)
    collected = job.stage("rejects", stage)
    balances = [
        accounting.documents_balance(
            made["corpus.ingest"],
            made["corpus.delta"],
            sum(made.rows("rows") for made in corpus.made("index").values()),
            sum(corpus.buried().values()),
            collected,
            plan.config.corpus.feed,
        ),
        accounting.queries_balance(made["queries.ingest"], made["queries.delta"], made["ranked"]),
    ]
    standing = Log(job.store, "results").current()
    before = standing if standing and standing.body.get("plan_id") != plan.plan_id else None
    earlier = None
    if plan.earlier:
        earlier = generations.manifest_at(job.store, plan.earlier.body["datasets"]["rank"])
    stage = changes.stage(_at_depth(job, "changes"), made["ranked"], earlier)
    changed = job.stage("changes", stage)
    assert job.index is not None
    described = {
        "plan_id": plan.plan_id,
        "folder": plan.folder,
        "epoch": int(plan.folder.rpartition(".")[2]),
        "index_generation": job.index.generation,
        "queries": plan.queries,
        "config": plan.config.semantic(),
        "models": [plan.encoder.identity(), *(step.identity() for step in plan.steps)],
        "lists_key": lists_key(job),
        "stores": _stores(job),
        "datasets": {
            "candidates": made["candidates"].path,
            "rank": made["ranked"].path,
            "rejects": collected.path,
            "changes": changed.path,
        },
        "recall": _recall(made["partials"]),
        "unfinished": job.cut_short.what if job.cut_short else "",
        "rerank_depth": job.reached or (plan.config.rerank[-1].depth if plan.steps else 0),
        "changes_since": plan.earlier.generation if plan.earlier else 0,
    }
    tables = {name: made["ranked"].files(name) for name in ("ranked", "queries")}
    tables |= {"rejects": collected.files("rejects"), "changes": changed.files("changes")}
    body = publish.results_body(described, balances, tables, before)
    if job.gate:
        body["gate"] = _examine(job, body)
    uses = generations.datasets_of_results(body) + generations.datasets_of(job.index.body)
    return publish.publish_results(job.store, body, plan.watermark, uses)


def _recall(searched: Manifest) -> float | None:
    """Measured recall of an approximate index; None where nothing was sampled."""
    wanted = searched.total("recall_wanted")
    return round(searched.total("recall_hits") / wanted, 4) if wanted else None


def _examine(job: Run, body: dict[str, Any]) -> dict[str, Any]:
    """Measures the night and holds it against the limits.

    Raises:
        NightrankError: E_GATE, unless the operator has said why it is to be published.
    """
    config, made = job.plan.config, job.made
    qrels, measured = job.plan.qrels, None
    if qrels:
        manifests = made["ranked"], made["distinct"], job.corpus.made("documents")
        options = config.storage_options
        stage = evaluate.stage(body, manifests, config.evaluate, qrels, options, config.name)
        now = job.stage("evaluation", stage)
        if job.plan.earlier:
            path = evaluate.dataset_of(job.plan.earlier.body, config.evaluate, qrels)
            then = Dataset(job.store, path)
            if before := then.manifest():
                name = config.evaluate.measures[0]
                means = [m.shards[0].stats["measures"][name]["reranked"] for m in (before, now)]
                measured = (name, *means)
    counts = {kind: body["counts"][kind] for kind in ("documents", "queries")}
    found = gate.examine(config.gate, counts, made["changes"], made["candidates"], measured)
    found = [*job.findings, *found]
    for finding in found:
        job.progress.note(f"gate: {'passed' if finding.passed else 'FAILED'} {finding}")
    if not job.force_publish:
        gate.refuse(found)
    plain = [finding.to_dict() for finding in found]
    passed = all(finding.passed for finding in found)
    return {"passed": passed, "forced": job.force_publish or None, "findings": plain}
