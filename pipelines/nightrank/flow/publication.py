"""The end of a run: what it changed, whether it may be published, the log entry."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nightrank.datasets import cut_inputs
from nightrank.errors import NightrankError
from nightrank.flow import comparison
from nightrank.flow.bands import scored_depth, steps_of
from nightrank.flow.run import Run
from nightrank.flow.values import Index, Lists, Queries
from nightrank.generations import accounting, stored_forecast
from nightrank.generations import publish as log_entries
from nightrank.generations.accounting import Balance
from nightrank.generations.entries import ResultDatasets, ResultsEntry
from nightrank.generations.reuse import lists_key
from nightrank.generations.stage_order import scores_key, vectors_key
from nightrank.runtime.events import emit
from nightrank.stages import rejects
from nightrank.storage.dataset import FileRef, Manifest
from nightrank.storage.log import Entry, Log, Moved
from nightrank.storage.reader import Reader
from nightrank.storage.store import Store

CHECKED_AT_ONCE = 4


def publish(run: Run, lists: Lists, queries: Queries, index: Index) -> Entry:
    """Changes, rejects, balances, the gate, the log entry.

    Where another run has published in between, the lists are compared once more.

    Raises:
        Stopped: the run was asked to stop before.
        NightrankError: E_ACCOUNTING, E_GATE, E_CORRUPT; as `Log.append`.
    """
    while True:
        published = comparison.published_results(run, lists.reached)
        changed = comparison.compare(run, lists, published)
        rejected = _rejects(run, lists, queries, index)
        run.stop_before_publication()
        results = _results(run, lists, queries, index, rejected, changed, published)
        onto = published.generation if published else 0
        balances = _balances(run, lists, queries, index, rejected)
        tables = {name: lists.latest.files(name) for name in ("ranked", "queries")}
        tables |= {"rejects": rejected.files("rejects"), "changes": changed.files("changes")}
        _check_files(run.store, [ref for refs in tables.values() for ref in refs])
        before = Log(run.store, "results").read(onto) if onto else None
        body = results.body() | _forecast(run, lists, index)
        body = log_entries.results_body(body, balances, tables, before)
        if run.gate:
            body["gate"] = comparison.examine(
                run, results, body, lists, queries, index, changed, published
            )
        paths = {json_file["key"] for files in body["files"].values() for json_file in files}
        folders = {key.rpartition("/_data/")[0] for key in paths}
        uses = [*results.datasets.read(), *results.reused_datasets(), *folders]
        uses += index.entry.datasets()
        try:
            mark, forced = run.plan.watermark, bool(run.force_publish)
            entry = log_entries.publish_results(run.store, body, mark, uses, onto, forced)
            emit("published", generation=entry.generation)
            return entry
        except Moved:
            continue


def _rejects(run: Run, lists: Lists, queries: Queries, index: Index) -> Manifest:
    """Every row that does not count, of both inputs and of the lists."""
    documents = [
        rejects.Texts(part.number, part.vectors, part.documents) for part in index.corpus.segments
    ]
    asked = [rejects.Texts(-1, queries.embeddings, queries.distinct)]
    sources = [
        rejects.Source("corpus", index.rows.ingested, index.rows.changes, documents),
        rejects.Source("queries", queries.rows.ingested, queries.rows.changes, asked),
    ]
    tombstones = index.corpus.current().tombstone_files()
    inputs = rejects.Inputs(sources, lists.latest, tombstones)
    return run.complete(rejects.STAGE, run.plan.folder, inputs)


def _balances(
    run: Run, lists: Lists, queries: Queries, index: Index, rejected: Manifest
) -> list[Balance]:
    corpus = index.corpus
    documents = accounting.documents_balance(
        index.rows.ingested,
        index.rows.changes,
        sum(part.indexed.rows("rows") for part in corpus.segments),
        sum(corpus.tombstoned().values()),
        rejected,
        run.plan.config.corpus.feed,
    )
    rows = queries.rows
    return [documents, accounting.queries_balance(rows.ingested, rows.changes, lists.latest)]


def _results(
    run: Run,
    lists: Lists,
    queries: Queries,
    index: Index,
    rejected: Manifest,
    changed: Manifest,
    published: ResultsEntry | None,
) -> ResultsEntry:
    plan = run.plan
    datasets = ResultDatasets(
        ingest=queries.rows.ingested.path,
        delta=queries.rows.changes.path,
        distinct=queries.distinct.path,
        embeddings=queries.embeddings.path,
        candidates=lists.candidates.path,
        rank=lists.latest.path,
        rejects=rejected.path,
        changes=changed.path,
    )
    models = (plan.encoder, *plan.steps)
    return ResultsEntry(
        plan_id=plan.plan_id,
        versions=plan.versions,
        folder=plan.folder,
        epoch=int(plan.folder.rpartition(".")[2]),
        index_generation=index.entry.generation,
        queries=plan.queries,
        datasets=datasets,
        config=plan.config.semantic(),
        models=[model.identity() for model in models],
        stored_models=sorted({model.stored for model in models if model.stored}),
        lists_key=lists_key(plan.config, index.entry.template),
        vectors_key=vectors_key(plan.encoder),
        stores=_stores(run, lists),
        # Counted apart from the log's numbers: of those, collections take some.
        run_number=plan.earlier.run_number + 1 if plan.earlier else 0,
        recall=_recall(lists.partials),
        precision=lists.precision,
        cut=_cut(run, lists, queries, index),
        unfinished=run.cut_short.what if run.cut_short else "",
        rerank_depth=scored_depth(plan, lists.reached),
        changes_since=published.generation if published else 0,
        stage_seconds=dict(run.progress.seconds),
    )


def _stores(run: Run, lists: Lists) -> dict[str, list[str]]:
    """Where the scores of every model are found by later runs."""
    stores: dict[str, list[str]] = {}
    for model, scores in zip(run.plan.steps, lists.scores, strict=True):
        known = stores.setdefault(scores_key(model), [])
        for scored in scores:
            # What was looked up is repeated only where all depths were: else it stays needed.
            repeated = scored.identity["keep_all"] and not run.cut_short
            earlier = [] if repeated else scored.identity["stores"]
            known += [path for path in [*earlier, scored.path] if path not in known]
    return stores


def _recall(searched: Manifest) -> float | None:
    """Measured recall of an approximate index; None where nothing was sampled."""
    wanted = searched.total("recall_wanted")
    return round(searched.total("recall_hits") / wanted, 4) if wanted else None


def _cut(run: Run, lists: Lists, queries: Queries, index: Index) -> list[dict[str, Any]]:
    """What was longer than its model takes; see `cut_inputs.summary`."""
    models = {
        step.name: (step.model, list(scores))
        for step, scores in zip(steps_of(run.plan), lists.scores, strict=False)
        if step.model
    }
    documents = [part.vectors for part in index.corpus.segments]
    return cut_inputs.summary(run.plan.encoder, documents, [queries.embeddings], models)


def _forecast(run: Run, lists: Lists, index: Index) -> dict[str, Any]:
    """What `nightrank plan` forecast of this run, and what came; empty without a forecast."""
    forecast = stored_forecast.kept(run.store, run.plan.folder)
    if forecast is None:
        return {}
    actual = {
        "seconds": round(time.monotonic() - run.began, 2),
        "stages": dict(run.progress.seconds),
        "pairs": sum(scored.total("pairs") for scores in lists.scores for scored in scores),
        "bytes": run.progress.bytes,
        "documents": index.corpus.size(),
        "queries": lists.latest.rows("queries"),
        "units_before": run.progress.before,
    }
    return {"forecast": forecast, "actual": actual}


def _check_files(store: Store, refs: list[FileRef]) -> None:
    """Refuses to name files that are gone or were cut or altered since they were committed.

    A resumed run publishes what an earlier one wrote, however long ago, and analysts' engines do
    not look at checksums: DuckDB and Polars read 75 of 80 flipped bits without a word.

    Raises:
        NightrankError: E_CORRUPT naming the first.
    """
    # Sizes first: S3 answers a range behind the end of a file with another error.
    folders = {ref.key.rpartition("/")[0] for ref in refs}
    sizes = {f"{at}/{name}": size for at in folders for name, size in store.files(at).items()}
    for ref in refs:
        if sizes.get(ref.key) != ref.size:
            what = f"expected {ref.size} bytes, found {sizes.get(ref.key, 'no file')}"
            do = "delete this file and its dataset's manifest.json and run again"
            raise NightrankError("E_CORRUPT", what, store.path(ref.key), do)
    read = Reader(store)
    with ThreadPoolExecutor(CHECKED_AT_ONCE) as pool:
        for _ in pool.map(read.check, refs):
            pass
