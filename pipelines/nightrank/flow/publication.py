"""The end of a run: what it changed, whether it may be published, the log entry."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nightrank.config.schema import PipelineConfig
from nightrank.datasets import cut_inputs
from nightrank.errors import NightrankError
from nightrank.flow import comparison
from nightrank.flow.run import Run
from nightrank.generations import accounting, prediction, publish
from nightrank.generations import corpus as generations
from nightrank.runtime.events import emit
from nightrank.stages import carry, merge, rejects, search
from nightrank.storage.dataset import FileRef, Manifest
from nightrank.storage.fingerprint import fingerprint
from nightrank.storage.log import Entry, Moved
from nightrank.storage.reader import Reader
from nightrank.storage.store import Store

CHECKED_AT_ONCE = 4


def publish_run(job: Run) -> Entry:
    """Publishes; compares once more where another run has published in between."""
    while True:
        body, uses = _described(job)
        onto = job.standing.generation if job.standing else 0
        try:
            mark, forced = job.plan.watermark, bool(job.force_publish)
            entry = publish.publish_results(job.store, body, mark, uses, onto, forced)
            emit("published", generation=entry.generation)
            return entry
        except Moved:
            comparison.compare(job)


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
    stage = rejects.stage(job.at_depth("rejects"), sources, made["ranked"], dead)
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
        "lists_key": lists_key(plan.config, job.template),
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
        "cut": _cut(job),
        "unfinished": job.cut_short.what if job.cut_short else "",
        "rerank_depth": job.depth(),
        "changes_since": job.standing.generation if job.standing else 0,
    }
    described["stage_seconds"] = dict(job.progress.seconds)
    described |= _forecast(job)
    tables = {name: made["ranked"].files(name) for name in ("ranked", "queries")}
    tables |= {"rejects": collected.files("rejects"), "changes": made["changes"].files("changes")}
    _check_files(job.store, [ref for refs in tables.values() for ref in refs])
    body = publish.results_body(described, balances, tables, job.standing)
    if job.gate:
        body["gate"] = comparison.examine(job, body)
    uses = generations.datasets_of_results(body) + generations.datasets_to_build_on(body)
    return body, uses + generations.datasets_of(job.index.body)


def _cut(job: Run) -> list[dict[str, Any]]:
    """What was longer than its model takes; see `cut_inputs.summary`."""
    plan, made = job.plan, job.made
    steps = {
        step.name: (
            model,
            [one for name, one in made.items() if name.startswith(f"scores.{number}.")],
        )
        for number, (step, model) in enumerate(zip(plan.config.rerank, plan.steps, strict=True))
    }
    documents = job.corpus.made("documents.embeddings").values()
    return cut_inputs.summary(plan.encoder, documents, [made["queries.embeddings"]], steps)


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


def lists_key(config: PipelineConfig, template: dict[str, Any]) -> str:
    """What first-stage lists depend on beside documents and queries.

    Args:
        config: the experiment.
        template: what an index entry says of its template.
    """
    retrieve = config.retrieve
    settings = retrieve.bm25.model_dump(mode="json", exclude={"weight"})
    return fingerprint(
        {
            "template": template["path"],
            "search_parameters": template["search_parameters"],
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
