"""The pipeline, read from top to bottom: from a plan to published, measured results."""

from __future__ import annotations

from nightrank.config.schema import PipelineConfig
from nightrank.errors import NightrankError
from nightrank.flow.bands import steps_of
from nightrank.flow.corpus import compare_corpus, ingest_corpus, update_corpus
from nightrank.flow.dry_run import PlannedStage, planned_stages
from nightrank.flow.index import build_index, load_index
from nightrank.flow.publication import publish
from nightrank.flow.queries import compare_queries, ingest_queries, update_queries
from nightrank.flow.reranking import rerank
from nightrank.flow.retrieval import retrieve
from nightrank.flow.run import Run, Stopped
from nightrank.generations.entries import ResultsEntry
from nightrank.generations.evaluations import evaluation_stage, judgements_of, rejects_of
from nightrank.generations.planning import Plan
from nightrank.generations.repair import Repair
from nightrank.generations.results import manifests_of
from nightrank.generations.stage_order import PUBLISH, position
from nightrank.runtime.events import emit
from nightrank.runtime.executor import Executor, run_stage
from nightrank.runtime.progress import Progress
from nightrank.storage.dataset import Manifest
from nightrank.storage.log import Entry
from nightrank.storage.store import Store


def pipeline(run: Run) -> Entry | None:
    """From the two inputs to a log entry of the results; None where the index alone is updated.

    Both inputs are read and checked before anything expensive is computed.
    """
    scope = run.plan.scope
    corpus_rows = ingest_corpus(run) if scope != "results" else None
    query_rows = ingest_queries(run) if scope != "index" else None
    corpus = compare_corpus(run, corpus_rows) if corpus_rows else None  # delta
    asked = compare_queries(run, query_rows) if query_rows else None  # delta
    if corpus is None:
        index = load_index(run)
    else:
        documents = update_corpus(run, corpus)  # extract, segment, tokenize, terms, embed
        index = build_index(run, documents)  # train, build, compact; the index log
    if asked is None:
        return None
    queries = update_queries(run, asked)  # distinct, tokenize, terms, embed
    lists = retrieve(run, queries, index)  # carry, search, merge
    for step in steps_of(run.plan):
        lists = rerank(run, step, lists, queries, index)  # score where documents are, rank
    return publish(run, lists, queries, index)  # changes, rejects, gate; the results log


def stages_of(plan: Plan, store: Store, last: str = PUBLISH) -> list[PlannedStage]:
    """The stages that a run of this plan consists of, in order; nothing is executed."""
    stages = planned_stages(plan, store, pipeline, last)
    if plan.qrels and plan.scope != "index" and position(last) >= position(PUBLISH):
        stages.append(PlannedStage("evaluate", "evaluate", "", False, True))
    return stages


def run(job: Run, last: str = PUBLISH) -> Entry | None:
    """Runs the pipeline up to the stage `last` and publishes where that is reached.

    A damaged file of what is not published yet is quarantined and recomputed, each shard's once.

    Returns:
        The log entry of the results, or None where the run was asked to stop earlier.

    Raises:
        NightrankError: see the stages; nothing is published then.
    """
    job.last = last
    repair = Repair(job.store)
    while True:
        try:
            planned = stages_of(job.plan, job.store, last)
            job.progress.expect([stage.label for stage in planned if stage.reported])
            return pipeline(job)
        except Stopped:
            return None
        except NightrankError as error:
            key = repair.quarantine(error)
            if key is None:
                raise
            emit("file_damaged", error=error)
            job.progress.note(f"{job.store.path(key)} is damaged: quarantined and recomputed")
            job.start_over()


def run_evaluation(
    config: PipelineConfig, store: Store, executor: Executor, progress: Progress, entry: Entry
) -> Manifest:
    """Measures a published generation by the config's qrels; needs neither inputs nor a plan.

    Raises:
        NightrankError: E_CONFIG without qrels, E_EMPTY where they judge none of the queries.
    """
    results, rejects = ResultsEntry.of(entry), rejects_of(entry.body["files"])
    manifests = manifests_of(store, entry)
    stage = evaluation_stage(results, manifests, rejects, config, judgements_of(config))
    return run_stage(stage, store, executor, progress)
