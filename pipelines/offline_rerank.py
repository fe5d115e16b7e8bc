"""The table of contents: from a plan to published, measured results.

`take_in` reads and checks both inputs before anything dear is spent; `index_half` brings the corpus
to a published index generation; `query_half` ranks the queries against it and publishes. What a
stage does is in its own file, how it is executed is in `runtime`.
"""

from __future__ import annotations

from pipelines import index_half, query_half
from pipelines.config import PipelineConfig
from pipelines.errors import NightrankError
from pipelines.results import manifests_of
from pipelines.run import STAGES, Run
from pipelines.runtime.executor import Executor, run_stage
from pipelines.runtime.progress import Progress
from pipelines.stages import accounting, delta, evaluate, ingest
from pipelines.storage.dataset import Manifest
from pipelines.storage.inputs import list_inputs
from pipelines.storage.log import Entry
from pipelines.storage.store import Store

__all__ = ["STAGES", "Run", "run", "run_evaluation"]


def run(job: Run, last: str = "publish") -> Entry | None:
    """Runs the pipeline up to the stage `last` and publishes where that is reached.

    Returns:
        The log entry of the results, or None where the run was told to stop earlier.

    Raises:
        NightrankError: see the stages; nothing is published then.
    """
    job.last = last
    take_in(job)
    index_half.run(job)
    return query_half.run(job)


def take_in(job: Run) -> None:
    """Ingest and delta of the corpus and the queries."""
    plan, config = job.plan, job.plan.config
    judged = plan.qrels.url if plan.qrels and config.queries.only_judged else None
    keep = "first" if config.queries.on_dup_query == "reject" else "error"
    made = {
        "corpus": ingest.stage(
            f"{plan.segment}/ingest", config.corpus, plan.corpus_splits, config.storage_options
        ),
        "queries": ingest.stage(
            f"{plan.queries}/ingest",
            config.queries,
            plan.query_splits,
            config.storage_options,
            judged,
        ),
    }
    for kind, source in (("corpus", config.corpus), ("queries", config.queries)):
        accounting.check_input(kind, source, job.stage(f"{kind}.ingest", made[kind]))
    if job.goes_on_to("delta"):
        rules = {"corpus": config.corpus.duplicates, "queries": keep}
        for kind, folder in (("corpus", plan.segment), ("queries", plan.queries)):
            ingested = job.made[f"{kind}.ingest"]
            job.stage(f"{kind}.delta", delta.stage(f"{folder}/delta", kind, ingested, rules[kind]))


def run_evaluation(
    config: PipelineConfig, store: Store, executor: Executor, progress: Progress, entry: Entry
) -> Manifest:
    """Measures a published generation by the config's qrels; needs neither inputs nor a plan.

    Raises:
        NightrankError: E_CONFIG without qrels, E_EMPTY where they judge none of the queries.
    """
    if config.evaluate.qrels is None:
        do = "set evaluate.qrels to a TREC or BEIR file"
        raise NightrankError("E_CONFIG", "no judgements given", "evaluate.qrels", do)
    options = config.storage_options
    qrels = list_inputs(config.evaluate.qrels, "tsv", options)[0]
    manifests = manifests_of(store, entry)
    made = evaluate.stage(entry, manifests, config.evaluate, qrels, options, config.name)
    return run_stage(made, store, executor, progress)
