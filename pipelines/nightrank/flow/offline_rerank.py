"""The table of contents: from a plan to published, measured results.

Both inputs are read and checked before anything dear is spent; `index_half` brings the corpus to a
published index generation; `query_half` ranks the queries against it and publishes. What a
stage does is in its own file, how it is executed is in `runtime`.
"""

from __future__ import annotations

from nightrank.config.schema import PipelineConfig
from nightrank.errors import NightrankError
from nightrank.flow import index_half, query_half
from nightrank.flow.outline import outline
from nightrank.flow.run import STAGES, Run
from nightrank.generations.repair import Repair
from nightrank.generations.results import evaluated_by, manifests_of
from nightrank.runtime.events import emit
from nightrank.runtime.executor import Executor, run_stage
from nightrank.runtime.progress import Progress
from nightrank.stages import evaluate
from nightrank.storage.dataset import Manifest
from nightrank.storage.log import Entry
from nightrank.storage.store import Store

__all__ = ["STAGES", "Run", "run", "run_evaluation"]


def run(job: Run, last: str = "publish") -> Entry | None:
    """Runs the pipeline up to the stage `last` and publishes where that is reached.

    A damaged file of what is not published yet is put aside and made anew, each shard's once.

    Returns:
        The log entry of the results, or None where the run was told to stop earlier.

    Raises:
        NightrankError: see the stages; nothing is published then.
    """
    job.last = last
    repair = Repair(job.store)
    while True:
        try:
            return _run(job)
        except NightrankError as error:
            key = repair.put_aside(error)
            if key is None:
                raise
            emit("file_damaged", error=error)
            job.progress.note(f"{job.store.path(key)} is damaged: put aside, to be made anew")
            job.start_over()


def _run(job: Run) -> Entry | None:
    scope = job.plan.scope
    job.progress.expect(outline(job.plan, job.last))
    if scope != "results":
        index_half.take_in(job)
    if scope != "index":
        query_half.take_in(job)
    if scope == "results":
        index_half.load(job)
    else:
        index_half.run(job)
    return query_half.run(job) if scope != "index" else None


def run_evaluation(
    config: PipelineConfig, store: Store, executor: Executor, progress: Progress, entry: Entry
) -> Manifest:
    """Measures a published generation by the config's qrels; needs neither inputs nor a plan.

    Raises:
        NightrankError: E_CONFIG without qrels, E_EMPTY where they judge none of the queries.
    """
    qrels, options = evaluated_by(config), config.storage_options
    manifests = manifests_of(store, entry)
    made = evaluate.stage(entry.body, manifests, config.evaluate, qrels, options, config.name)
    return run_stage(made, store, executor, progress)
