"""Runs a plan and describes what came of it: the only module of the API that knows the flow."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from nightrank.api.executors import open_executor
from nightrank.api.process import environment_kept, refuse_unpickling
from nightrank.api.records import Counts, CutInputs, Gate, Measure, PrecisionCheck, Work
from nightrank.api.result import Lake, Result
from nightrank.config.schema import PipelineConfig
from nightrank.errors import NightrankError
from nightrank.evaluation.coverage import Coverage
from nightrank.flow import offline_rerank as pipeline
from nightrank.flow.run import Run
from nightrank.generations import rollbacks, stored_forecast
from nightrank.generations.planning import Plan, Scope, make_plan, store_models
from nightrank.generations.results import generation_of, open_lake
from nightrank.generations.stage_order import PUBLISH, position, stops
from nightrank.runtime import deadline, events, supervisor
from nightrank.runtime.budget import Meter
from nightrank.runtime.eta import EtaEstimator
from nightrank.runtime.progress import Progress
from nightrank.storage import headroom
from nightrank.storage.dataset import Manifest
from nightrank.storage.log import Entry
from nightrank.storage.store import Store


@dataclass(frozen=True)
class Request:
    """What is asked of a run.

    Attributes:
        verb: name in the run's events.
        scope: `all`, or the `index` or `results` half alone.
        first: stages before this one must be complete.
        last: the run stops after this stage; None for a whole run.
        index_generation: with scope `results`, rank with this index and not the current one.
        gate: whether the config's gate decides about publication.
        force_publish: why results are published against the gate or a rollback; empty if not.
        began: when the schedule started this run, in seconds since the epoch; None is now.
    """

    verb: str = "run"
    scope: Scope = "all"
    first: str | None = None
    last: str | None = None
    index_generation: int | None = None
    gate: bool = False
    force_publish: str = ""
    began: float | None = None

    def check(self) -> None:
        """Refuses stages that do not exist.

        Raises:
            NightrankError: E_USAGE.
        """
        for option, name in (("--from", self.first), ("--to", self.last)):
            if name is not None and name not in stops():
                do = f"stages: {', '.join(stops())}"
                raise NightrankError("E_USAGE", f"{option} {name}: no such stage", "", do)

    @property
    def publishes(self) -> bool:
        """Whether results are to be published."""
        wanted = self.last is None or position(self.last) >= position(PUBLISH)
        return wanted and self.scope != "index"


def run_to_result(config: PipelineConfig, request: Request, progress: Progress) -> Result:
    """Plans, runs, publishes and evaluates as the request says.

    Raises:
        NightrankError: what the config, the inputs, a stage, the gate or the budget refuses.
    """
    request.check()
    started = time.monotonic()
    with environment_kept(), open_run(config, request, progress) as run:
        result = execute(run, request.first, request.last)
    seconds = {**result.seconds, "total": round(time.monotonic() - started, 2)}
    return replace(result, seconds=seconds)


def evaluate_generation(
    config: PipelineConfig, generation: int | str | None, progress: Progress
) -> tuple[Entry, Manifest]:
    """Evaluates a published generation; returns its log entry and the evaluation's manifest."""
    store = open_lake(config.root, config.name, config.storage_options)
    entry = generation_of(store, generation)
    with environment_kept(), open_executor(config) as executor:
        return entry, pipeline.run_evaluation(config, store, executor, progress, entry)


@contextlib.contextmanager
def open_run(config: PipelineConfig, request: Request, progress: Progress) -> Iterator[Run]:
    """Probes the store, plans, opens the executor; records events until the block ends.

    Raises:
        NightrankError: E_GATE if a rollback is in force and results are to be published; what
            `make_plan` raises.
    """
    refuse_unpickling()
    store = open_lake(config.root, config.name, config.storage_options)
    recorder = events.Events(store)
    with events.recording(recorder):
        try:
            store.probe()
            if request.publishes and not request.force_publish:
                # Before inputs are listed and models copied: the work would end unpublished, and
                # the index would contain documents that the operator has not checked yet.
                rollbacks.refuse_held(store)
            plan = make_plan(config, store, request.scope, request.index_generation)
            recorder.folder, recorder.plan = plan.own_folder, plan.plan_id
            begun = store.folders(recorder.folder) or store.folders(plan.segment)
            events.emit("run_resumed" if begun else "run_started", verb=request.verb)
            if not begun:
                _check_headroom(plan, store)
            for name, files in plan.left_out.items():
                if left_out := files.describe():
                    progress.note(f"{name}: {left_out}")
            plan = store_models(plan, store, progress.note)
            with open_executor(config) as executor:
                began, folder = request.began, plan.own_folder
                meter = Meter(
                    config.budget,
                    executor.gpus,
                    lambda until, now: deadline.window_of(store, folder, until, began or now),
                    lambda: deadline.failed_seconds(store, folder, recorder.run, time.time()),
                )
                expected = stored_forecast.expected_seconds(store, plan.folder, plan.earlier)
                progress.eta = EtaEstimator(expected, meter.deadline)
                run = Run(plan, store, executor, progress, meter=meter, gate=request.gate)
                run.force_publish = request.force_publish
                yield run
            if run.cut_short:
                events.ended(run.cut_short)
            events.emit("run_finished", seconds=time.monotonic() - run.began)
        except BaseException as error:
            events.ended(supervisor.stop_behind(error))
            if isinstance(error, NightrankError) and error.code == "E_STORE_RETRY":
                recorder.folder = ""  # The store does not answer: it was asked often enough.
            raise
        finally:
            recorder.close()


def execute(run: Run, first: str | None = None, last: str | None = None) -> Result:
    """Runs a plan from `first` to `last`, publishes and evaluates.

    A plan that is published and current is not run again.

    Raises:
        NightrankError: what a stage, the gate or the budget refuses.
    """
    plan = run.plan
    if plan.published is not None and first is None and last is None:
        entry = generation_of(run.store, plan.published)
        run.progress.note("this plan is already published and current: nothing to do")
        if run.force_publish:  # Asked for although a rollback is in force: that ends it.
            rollbacks.resume(run.store, run.force_publish)
    else:
        run.first = first or run.first
        published = pipeline.run(run, last if last and last != "evaluate" else "publish")
        if published is None:
            return _timed(run, _without_results(run, last))
        entry = published
    result = _of_generation(run, entry)
    if plan.qrels is not None and last != "publish":
        result = _evaluated(run, entry, result)
    return _timed(run, result)


def _timed(run: Run, result: Result) -> Result:
    """The result with the units and seconds of the stages that ran."""
    return replace(result, units=dict(run.progress.units), seconds=dict(run.progress.seconds))


def _without_results(run: Run, last: str | None) -> Result:
    """Of a run of the index half, or one that stopped before `publish`."""
    index, base = run.report.index, run.plan.base
    of_index = run.plan.scope == "index"
    is_new = index is not None and index.generation != (base.generation if base else 0)
    return Result(
        lake=_lake(run.plan),
        generation=None,
        index_generation=index.generation if index else None,
        published=of_index and is_new,
        work=_work(run),
        stopped_after="" if of_index else last or "",
    )


def _of_generation(run: Run, entry: Entry) -> Result:
    body = entry.body
    return Result(
        lake=_lake(run.plan),
        generation=entry.generation,
        index_generation=body["index_generation"],
        published=run.plan.published is None,
        work=_work(run),
        counts=Counts(**body["counts"]),
        files=tuple(run.store.path(file["key"]) for file in body["files"]["ranked"]),
        gate=Gate.of(body["gate"]) if body.get("gate") else None,
        unfinished=body["unfinished"],
        cut_short=run.cut_short,
        precision={step: PrecisionCheck(**check) for step, check in body["precision"].items()},
        cut=tuple(CutInputs(**inputs) for inputs in body["cut"]),
        forecast=body.get("forecast"),
        actual=body.get("actual"),
    )


def _evaluated(run: Run, entry: Entry, result: Result) -> Result:
    """The result with its measures; without, if none of the queries is judged."""
    try:
        manifest = pipeline.run_evaluation(
            run.plan.config, run.store, run.executor, run.progress, entry
        )
    except NightrankError as error:
        what = f"generation {entry.generation} is published but not measured: {error.what}"
        if error.code == "E_EMPTY":  # The judgements are of other queries.
            run.progress.note(what)
            return replace(result, not_measured=what)
        raise NightrankError(error.code, what, error.where, error.do) from error
    shard = manifest.shards[0]
    return replace(
        result,
        measures=measures_of(manifest),
        judgements=judgements_of(manifest),
        evaluation=manifest.path,
        report=run.store.path(shard.files["report"].key),
    )


def measures_of(manifest: Manifest) -> dict[str, Measure]:
    """The measures of an evaluation, by name."""
    return {
        name: Measure(**values) for name, values in manifest.shards[0].stats["measures"].items()
    }


def judgements_of(manifest: Manifest) -> tuple[Coverage, ...]:
    """Which judged documents and queries exist."""
    covered = manifest.shards[0].stats["judgements"].values()
    return tuple(Coverage.from_dict(plain) for plain in covered)


def _work(run: Run) -> Work:
    """What this run had to do: documents and pairs, new and reused."""
    report = run.report
    ingested, delta = report.corpus_rows, report.corpus_changes
    names = ("added", "changed", "removed")
    changes = dict.fromkeys(names, 0)
    if delta and not run.plan.corpus_is_indexed:
        changes = {name: delta.total(name) for name in names}
    needed, scored = (
        sum(manifest.total(name) for manifest in report.scored)
        for name in ("pairs", "pairs_scored")
    )
    queries = report.query_rows
    return Work(
        documents_in=ingested.total("rows_in") if ingested else 0,
        documents_added=changes["added"],
        documents_changed=changes["changed"],
        documents_removed=changes["removed"],
        documents_embedded=report.embedded,
        queries_in=queries.total("rows_in") if queries else 0,
        pairs_needed=needed,
        pairs_reused=needed - scored,
        pairs_scored=scored,
        files_left_out={name: files.counts for name, files in run.plan.left_out.items()},
    )


def _lake(plan: Plan) -> Lake:
    return Lake(plan.config.root, plan.config.name, plan.config.storage_options)


def _check_headroom(plan: Plan, store: Store) -> None:
    """Before anything is written: by the run's forecast, else by the size of a first input."""
    if forecast := stored_forecast.kept(store, plan.folder) if plan.folder else None:
        headroom.check(plan.config.root, int(forecast["bytes"]), "its forecast")
    elif plan.base is None:
        # Texts and tokens each compress to about a third; vectors come on top.
        half = sum(file.size for file in plan.corpus_files) // 2
        headroom.check(plan.config.root, half, "half of its input and a fifth more")
