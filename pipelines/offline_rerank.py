"""The table of contents: from a config to the stages, in order.

Each line below brings one dataset to completion and hands its manifest on. Nothing else happens
here: what a stage does is in its own file, how it is executed is in `runtime`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipelines.errors import NightrankError
from pipelines.models.protocols import ResolvedModel
from pipelines.planning import Plan
from pipelines.results import manifests_of
from pipelines.runtime.executor import Executor, run_stage
from pipelines.runtime.progress import Progress
from pipelines.runtime.stage import Stage
from pipelines.stages import (
    accounting,
    build_index,
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
    segment,
    tokenize,
    train_index,
)
from pipelines.stages.fan_out import Published
from pipelines.storage.dataset import Dataset, Manifest
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.log import Entry
from pipelines.storage.store import Store

STAGES = (
    "ingest",
    "delta",
    "segment",
    "tokenize",
    "embed",
    "train_index",
    "build_index",
    "search",
    "merge",
    "rerank",
    "rank",
    "publish",
    "evaluate",
)


@dataclass
class Run:
    """One run of a plan.

    Attributes:
        first: stages before this one must be complete already.
        made: manifests by short name.
        index_generation: the index generation that results are made from.
    """

    plan: Plan
    store: Store
    executor: Executor
    progress: Progress
    first: str = STAGES[0]
    made: dict[str, Manifest] = field(default_factory=dict)
    index_generation: int = 0

    def stage(self, name: str, stage: Stage) -> Manifest:
        """Runs one stage and remembers its manifest.

        Raises:
            NightrankError: E_USAGE where the stage lies before `first` and is not complete.
        """
        early = stage.kind in STAGES and STAGES.index(stage.kind) < STAGES.index(self.first)
        if early and Dataset(self.store, stage.dataset).manifest() is None:
            what = f"--from {self.first}: stage {stage.name} before it is not complete"
            raise NightrankError("E_USAGE", what, stage.dataset, "run without --from")
        manifest = run_stage(stage, self.store, self.executor, self.progress)
        self.made[name] = manifest
        return manifest


def run(job: Run, last: str = "publish") -> Entry | None:
    """Runs the pipeline up to the stage `last` and publishes where that is reached.

    Returns:
        The log entry of the results, or None where the run was told to stop earlier.

    Raises:
        NightrankError: see the stages; nothing is published then.
    """
    stop = STAGES.index(last)
    for name, step in (
        ("embed", _first_half),
        ("build_index", _index),
        ("merge", _retrieve),
        ("rank", _rerank),
    ):
        step(job, stop)
        if stop <= STAGES.index(name):
            return None
    return _publish(job)


def _first_half(job: Run, stop: int) -> None:
    """Ingest, delta, segment or distinct, tokenize and embed: for the corpus, for the queries."""
    plan, config = job.plan, job.plan.config
    options = config.storage_options
    judged = plan.qrels.url if plan.qrels and config.queries.only_judged else None
    policy = "first" if config.queries.on_dup_query == "reject" else "error"
    for kind, folder, source, splits, files, qrels, keep in (
        ("corpus", plan.segment, config.corpus, plan.corpus_splits, plan.corpus_files, None,
         config.corpus.duplicates),
        ("queries", plan.queries, config.queries, plan.query_splits, plan.query_files, judged,
         policy),
    ):  # fmt: skip
        path = f"{folder}/ingest"
        ingested = job.stage(
            f"{kind}.ingest", ingest.stage(path, kind, source, splits, files, options, qrels)
        )
        accounting.check_input(kind, source, ingested)
        if stop >= STAGES.index("delta"):
            job.stage(f"{kind}.delta", delta.stage(f"{folder}/delta", kind, ingested, keep))
    if stop >= STAGES.index("segment"):
        _texts(job)
    if stop >= STAGES.index("tokenize"):
        _tokens(job, plan.encoder)
    if stop >= STAGES.index("embed"):
        _embeddings(job)


def _texts(job: Run) -> None:
    plan, layout = job.plan, job.plan.config.layout
    job.stage(
        "documents",
        segment.stage(
            f"{plan.segment}/documents",
            plan.config.corpus,
            job.made["corpus.ingest"],
            job.made["corpus.delta"],
            layout.document_shard_rows,
        ),
    )
    job.stage(
        "distinct",
        distinct.stage(
            f"{plan.queries}/distinct",
            plan.config.queries,
            job.made["queries.ingest"],
            job.made["queries.delta"],
            layout.query_shard_rows,
        ),
    )


def _tokens(job: Run, model: ResolvedModel) -> tuple[Manifest, Manifest]:
    """Tokens of documents and queries for a model; models with one tokenizer share them."""
    plan, key = job.plan, fingerprint({"tokenizer": model.tokenizer})
    documents = tokenize.stage(
        f"{plan.segment}/tokens-{key}", "documents", job.made["documents"], model
    )
    queries = tokenize.stage(f"{plan.queries}/tokens-{key}", "queries", job.made["distinct"], model)
    return (
        job.stage(f"tokens.documents.{key}", documents),
        job.stage(f"tokens.queries.{key}", queries),
    )


def _embeddings(job: Run) -> None:
    plan, model = job.plan, job.plan.encoder
    key = fingerprint({"tokenizer": model.tokenizer})
    folder = f"embeddings-{fingerprint(model.identity())}"
    for kind, base, name in (
        ("document", plan.segment, "documents"),
        ("query", plan.queries, "queries"),
    ):
        tokens = job.made[f"tokens.{name}.{key}"]
        made = job.stage(f"embeddings.{name}", embed.stage(f"{base}/{folder}", kind, tokens, model))
        accounting.check_vectors(name, made, tokens.rows("tokens"), model)


def _index(job: Run, stop: int) -> None:
    """The template, the index, and its publication."""
    if stop < STAGES.index("train_index"):
        return
    plan, config = job.plan, job.plan.config
    embeddings, documents = job.made["embeddings.documents"], job.made["documents"]
    settings = {"index": config.index.model_dump(mode="json"), "depth": config.retrieve.depth}
    settings["index"].pop("shard_bytes")
    key = fingerprint({**settings, "embeddings": embeddings.path})
    dimension = plan.encoder.dimension
    template = job.stage(
        "template",
        train_index.stage(
            f"templates/{key}", embeddings, config.index, dimension, config.retrieve.depth
        ),
    )
    if stop < STAGES.index("build_index"):
        return
    shards = fingerprint({"template": key, "shard_bytes": config.index.shard_bytes})
    index = job.stage(
        "index",
        build_index.stage(
            f"{plan.segment}/index-{shards}",
            embeddings,
            documents,
            template,
            config.index.shard_bytes,
            dimension,
        ),
    )
    body = {
        "kind": "publish",
        "segments": [
            {
                "number": 0,
                "path": plan.segment,
                "documents": documents.rows("documents"),
                "embeddings": embeddings.path,
                "index": index.path,
            }
        ],
        "tombstones": [],
        "template": {"path": template.path, **template.shards[0].stats},
        "encoder": plan.encoder.identity(),
    }
    entry = publish.publish_index(job.store, body, 0)
    chosen = template.shards[0].stats
    job.progress.note(f"index generation {entry.generation}: {chosen['factory']}")
    job.index_generation = entry.generation


def _retrieve(job: Run, stop: int) -> None:
    """Search and merge."""
    if stop < STAGES.index("search"):
        return
    plan, config = job.plan, job.plan.config
    chosen = job.made["template"].shards[0].stats["search_parameters"]
    settings = {
        "depth": config.retrieve.depth,
        "search_parameters": config.index.search_parameters or chosen,
    }
    # How much one worker holds is no part of the plan, but decides which partial lists there are.
    groups = fingerprint({"memory_bytes": config.search.memory_bytes})
    partials = job.stage(
        "partials",
        search.stage(
            f"{plan.folder}/search-{groups}",
            job.made["embeddings.queries"],
            job.made["index"],
            job.made["embeddings.documents"],
            0,
            config.search.memory_bytes,
            settings,
        ),
    )
    if stop < STAGES.index("merge"):
        return
    head = config.rerank[0].depth if config.rerank else 0
    merged = merge.stage(
        f"{plan.folder}/candidates", job.made["distinct"], partials, config.retrieve.depth, head
    )
    job.stage("candidates", merged)


def _rerank(job: Run, stop: int) -> None:
    """Every step: score where the documents live, gather by query."""
    if stop < STAGES.index("rerank"):
        return
    plan, steps = job.plan, job.plan.config.rerank
    names = tuple(step.name for step in steps)
    published = Published(
        job.made["distinct"],
        job.made["embeddings.queries"],
        job.made["documents"],
        plan.config.queries,
        plan.config.corpus,
        plan.config.results.keep,
        tuple(plan.config.results.document_columns),
        "+".join(f"{step.name}@{step.depth}" for step in steps) or "first_stage",
    )
    lists, file = job.made["candidates"], "candidates"
    if not steps:
        settings = rank.Settings(names, -1, 0, 0.0, 0)
        path = f"{plan.folder}/rank"
        job.stage("ranked", rank.stage(path, lists, file, None, settings, published))
        return
    for number, step in enumerate(steps):
        model = plan.steps[number]
        documents, queries = _tokens(job, model)
        path = f"{plan.folder}/scores-{number}-{fingerprint(model.identity())}"
        scores = job.stage(
            f"scores.{step.name}",
            rerank.stage(path, step.name, lists, documents, queries, model, step.unit_tokens),
        )
        if stop < STAGES.index("rank"):
            return
        deeper = steps[number + 1].depth if number + 1 < len(steps) else 0
        settings = rank.Settings(names, number, step.depth, plan.weight(number), deeper)
        path = f"{plan.folder}/rank" if settings.is_last else f"{plan.folder}/rank-{number}"
        last = published if settings.is_last else None
        lists = job.stage("ranked", rank.stage(path, lists, file, scores, settings, last))
        file = "pool"


def _publish(job: Run) -> Entry:
    """Rejects, the balance, the log entry."""
    plan, made = job.plan, job.made
    sources = [
        rejects.Source(
            "corpus",
            plan.corpus_splits,
            made["corpus.ingest"],
            made["corpus.delta"],
            made["embeddings.documents"],
            made["documents"],
        ),
        rejects.Source(
            "queries",
            plan.query_splits,
            made["queries.ingest"],
            made["queries.delta"],
            made["embeddings.queries"],
            made["distinct"],
        ),
    ]
    collected = job.stage(
        "rejects", rejects.stage(f"{plan.folder}/rejects", sources, made["ranked"])
    )
    balances = [
        accounting.documents_balance(
            made["corpus.ingest"],
            made["corpus.delta"],
            made["embeddings.documents"],
            made["index"],
        ),
        accounting.queries_balance(made["queries.ingest"], made["queries.delta"], made["ranked"]),
    ]
    folder, _, epoch = plan.folder.rpartition(".")
    body = {
        "plan_id": plan.plan_id,
        "folder": plan.folder,
        "epoch": int(epoch),
        "index_generation": job.index_generation,
        "queries": plan.queries,
        "segment": plan.segment,
        "config": plan.config.semantic(),
        "models": [plan.encoder.identity(), *(step.identity() for step in plan.steps)],
    }
    return publish.publish_results(
        job.store, body, balances, made["ranked"], collected, plan.watermark
    )


def run_evaluation(job: Run, entry: Entry) -> Manifest:
    """Measures a published generation against the qrels of the config."""
    config, qrels = job.plan.config.evaluate, job.plan.qrels
    if qrels is None:
        do = "set evaluate.qrels to a TREC or BEIR file"
        raise NightrankError("E_CONFIG", "no judgements given", "evaluate.qrels", do)
    made = evaluate.stage(
        entry.body["folder"],
        manifests_of(job.store, entry),
        entry,
        config,
        qrels,
        job.plan.config.storage_options,
        job.plan.config.name,
    )
    return job.stage("evaluation", made)
