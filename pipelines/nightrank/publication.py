"""The end of a run: what it changed, whether it may be published, the log entry."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nightrank import gate, generations, prediction
from nightrank.errors import NightrankError
from nightrank.run import Run
from nightrank.runtime.events import emit
from nightrank.stages import (
    accounting,
    carry,
    changes,
    evaluate,
    merge,
    publish,
    rejects,
    search,
)
from nightrank.storage.dataset import Dataset, FileRef, Manifest
from nightrank.storage.fingerprint import fingerprint
from nightrank.storage.log import Entry, Log, Moved
from nightrank.storage.reader import Reader
from nightrank.storage.store import Store

CHECKED_AT_ONCE = 4


def compare(job: Run) -> None:
    """What the new lists change of those that are published at this moment."""
    job.standing = Log(job.store, "results").current()
    body = job.standing.body if job.standing else {}
    # Of this very publication, made by a twin or before a crash: as it was compared then.
    if body.get("folder") == job.plan.folder and body.get("rerank_depth") == _depth(job):
        number = body["changes_since"]
        job.standing = Log(job.store, "results").read(number) if number else None
    earlier, since = None, 0
    if job.standing:
        since = job.standing.generation
        earlier = generations.manifest_at(job.store, job.standing.body["datasets"]["rank"])
    stage = changes.stage(f"{at_depth(job, 'changes')}-{since}", job.made["ranked"], earlier)
    job.stage("changes", stage)


def publish_run(job: Run) -> Entry:
    """Publishes; compares once more where another run has published in between."""
    while True:
        body, uses = _described(job)
        onto = job.standing.generation if job.standing else 0
        try:
            entry = publish.publish_results(job.store, body, job.plan.watermark, uses, onto)
            emit("published", generation=entry.generation)
            return entry
        except Moved:
            compare(job)


def _depth(job: Run) -> int:
    """How deep the last step has scored the lists; 0 without one."""
    return job.reached or (job.plan.config.rerank[-1].depth if job.plan.steps else 0)


def _described(job: Run) -> tuple[dict[str, Any], list[str]]:
    """Rejects, the balances, the gate: the entry's body, and the datasets that it depends on."""
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
    stage = rejects.stage(at_depth(job, "rejects"), sources, made["ranked"], dead)
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
    assert job.index is not None
    described = {
        "plan_id": plan.plan_id,
        "folder": plan.folder,
        "epoch": int(plan.folder.rpartition(".")[2]),
        "index_generation": job.index.generation,
        "queries": plan.queries,
        "config": plan.config.semantic(),
        "models": [plan.encoder.identity(), *(step.identity() for step in plan.steps)],
        "stored_models": sorted({m.stored for m in (plan.encoder, *plan.steps) if m.stored}),
        "lists_key": lists_key(job),
        "stores": _stores(job),
        "datasets": {
            "candidates": made["candidates"].path,
            "rank": made["ranked"].path,
            "rejects": collected.path,
            "changes": made["changes"].path,
        },
        # Counted apart from the log's numbers: of those, collections take some.
        "night": plan.earlier.body["night"] + 1 if plan.earlier else 0,
        "recall": _recall(made["partials"]),
        "precision": job.precision,
        "unfinished": job.cut_short.what if job.cut_short else "",
        "rerank_depth": _depth(job),
        "changes_since": job.standing.generation if job.standing else 0,
    }
    described["stage_seconds"] = dict(job.progress.seconds)
    described |= _forecast(job)
    tables = {name: made["ranked"].files(name) for name in ("ranked", "queries")}
    tables |= {"rejects": collected.files("rejects"), "changes": made["changes"].files("changes")}
    _check_files(job.store, [ref for refs in tables.values() for ref in refs])
    body = publish.results_body(described, balances, tables, job.standing)
    if job.gate:
        body["gate"] = _examine(job, body)
    uses = generations.datasets_of_results(body) + generations.datasets_to_build_on(body)
    return body, uses + generations.datasets_of(job.index.body)


def _check_files(store: Store, refs: list[FileRef]) -> None:
    """Refuses to name files that are gone or were cut or altered since they were committed.

    A resumed run publishes what an earlier one wrote, however long ago, and analysts' engines do
    not look at checksums: DuckDB and Polars read 75 of 80 flipped bits without a word.

    Raises:
        NightrankError: E_CORRUPT naming the first.
    """
    # Sizes first: S3 answers a range behind the end of a file with another error.
    folders = {ref.key.rpartition("/")[0] for ref in refs}
    found = {f"{at}/{name}": size for at in folders for name, size in store.files(at).items()}
    for ref in refs:
        if found.get(ref.key) != ref.size:
            what = f"expected {ref.size} bytes, found {found.get(ref.key, 'no file')}"
            do = "delete this file and its dataset's manifest.json and run again"
            raise NightrankError("E_CORRUPT", what, store.path(ref.key), do)
    read = Reader(store)
    with ThreadPoolExecutor(CHECKED_AT_ONCE) as pool:
        for _ in pool.map(read.check, refs):
            pass


def _forecast(job: Run) -> dict[str, Any]:
    """What `nightrank plan` said of this run, and what came; empty where it was not asked."""
    forecast = prediction.kept(job.store, job.plan.folder)
    if forecast is None:
        return {}
    scored = [made for name, made in job.made.items() if name.startswith("scores.")]
    actual = {
        "seconds": round(time.monotonic() - job.began, 2),
        "stages": dict(job.progress.seconds),
        "pairs": sum(made.total("pairs") for made in scored),
        "bytes": job.progress.bytes,
        "documents": job.corpus.living(),
        "queries": job.made["ranked"].rows("queries"),
        "units_before": job.progress.before,
    }
    return {"forecast": forecast, "actual": actual}


def at_depth(job: Run, name: str) -> str:
    """A dataset of what is published; one of its own where only a part of the depth is."""
    return f"{job.plan.folder}/{name}" + (f"-at-{job.reached}" if job.reached else "")


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
        if job.standing:
            path = evaluate.dataset_of(job.standing.body, config.evaluate, qrels)
            then = Dataset(job.store, path)
            if before := then.manifest():
                name = config.evaluate.measures[0]
                means = [m.shards[0].stats["measures"][name]["reranked"] for m in (before, now)]
                measured = (name, *means)
    counts = {kind: body["counts"][kind] for kind in ("documents", "queries")}
    found = gate.examine(config.gate, counts, made["changes"], made["candidates"], measured)
    found = [*job.findings, *found]
    kept = [finding for finding in found if finding.passed]
    job.progress.note(f"gate: {len(kept)} of {len(found)} limits kept")
    if not job.force_publish:
        gate.refuse(found)
    plain = [finding.to_dict() for finding in found]
    passed = all(finding.passed for finding in found)
    return {"passed": passed, "forced": job.force_publish or None, "findings": plain}
