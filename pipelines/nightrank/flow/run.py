"""A run in progress: its plan, where it executes, and how one stage is brought to completion."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from nightrank.errors import NightrankError
from nightrank.generations import publish
from nightrank.generations.entries import IndexEntry
from nightrank.generations.gate import Removals
from nightrank.generations.planning import Plan
from nightrank.generations.stage_order import PUBLISH, position, stops
from nightrank.runtime.budget import Meter
from nightrank.runtime.events import emit
from nightrank.runtime.executor import Executor, run_stage
from nightrank.runtime.progress import Progress
from nightrank.runtime.stage import Declaration, Stage
from nightrank.storage.dataset import Dataset, Manifest
from nightrank.storage.store import Store

Inputs = TypeVar("Inputs")


class Stopped(Exception):
    """The next stage lies behind the one that the run was asked to stop after."""


@dataclass
class Report:
    """What a run did, for its closing lines.

    Attributes:
        corpus_rows: ingest of the corpus.
        corpus_changes: delta of the corpus.
        query_rows: ingest of the queries.
        embedded: documents that got a vector.
        scored: manifests of the rerank steps.
        index: the index generation that was published or ranked against.
    """

    corpus_rows: Manifest | None = None
    corpus_changes: Manifest | None = None
    query_rows: Manifest | None = None
    embedded: int = 0
    scored: list[Manifest] = field(default_factory=list)
    index: IndexEntry | None = None


@dataclass
class Run:
    """One run of a plan.

    Attributes:
        plan: what is run.
        store: its lake.
        executor: where stages are executed.
        progress: is given every stage and unit.
        first: stages before this one must be complete already.
        last: the run stops after this stage.
        gate: whether the limits of the config decide about publication.
        force_publish: why results are published that do not pass them; empty otherwise.
        meter: when the run has to end.
        began: `time.monotonic()` when the run did.
        cut_short: why it ends before all is scored, where a part is published for all that.
        removals: documents of a published index generation (0: of the base) that this run's corpus
            is without, by its number, as counted so far.
        merges: whether segments are merged where it is due.
        report: what was done.
        manifests: of complete stages, by path.
    """

    plan: Plan
    store: Store
    executor: Executor
    progress: Progress
    first: str = ""
    last: str = PUBLISH
    gate: bool = False
    force_publish: str = ""
    meter: Meter | None = None
    began: float = field(default_factory=time.monotonic)
    cut_short: NightrankError | None = None
    removals: dict[int, Removals] = field(default_factory=dict)
    merges: bool = True
    report: Report = field(default_factory=Report)
    manifests: dict[str, Manifest] = field(default_factory=dict)

    def complete(
        self,
        declaration: Declaration[Inputs],
        parent: str,
        inputs: Inputs,
        label: str = "",
        dataset: str = "",
        quiet: bool = False,
    ) -> Manifest:
        """Brings one stage to completion, or finds that it is complete.

        Args:
            declaration: the stage.
            parent: folder of its dataset.
            inputs: what it reads.
            label: as operators see it.
            dataset: another folder than the one that follows from the inputs.
            quiet: a dataset that exists is not reported.

        Raises:
            Stopped: the stage lies behind `last`.
            NightrankError: E_USAGE where the stage lies before `first` and is not complete; else
                what `run_stage` raises.
        """
        self._stop_behind_last(declaration.name)
        path = dataset or declaration.dataset(parent, inputs)
        name = label or declaration.name.replace("_", " ")
        if path in self.manifests:
            return self.manifests[path]
        if manifest := Dataset(self.store, path).manifest():
            if not quiet:
                self.progress.skipped(name, manifest)
            self.manifests[path] = manifest
            return manifest
        if self.first and position(declaration.name) < position(self.first):
            what = f"--from {self.first}: stage {name} before it is not complete"
            raise NightrankError("E_USAGE", what, path, "run without --from")
        self.manifests[path] = self.execute(declaration.stage(parent, inputs, name, path))
        return self.manifests[path]

    def execute(self, stage: Stage) -> Manifest:
        """Runs a stage whose dataset is not complete."""
        # Once a run is cut short, what it has is still brought to its readers.
        limit = self.meter.reason if self.meter and not self.cut_short else str
        return run_stage(stage, self.store, self.executor, self.progress, limit, is_new=True)

    def check(self, function: Callable[..., None], *arguments: Any) -> None:
        """Calls a check of what a stage has counted; a dry run has counted nothing."""
        function(*arguments)

    def publish_index(self, entry: IndexEntry) -> IndexEntry:
        """Appends to the index log."""
        written = publish.publish_index(
            self.store, entry.body(), self.plan.index_watermark, entry.datasets()
        )
        emit("index_published", generation=written.generation)
        return IndexEntry.of(written)

    def stop_before_publication(self) -> None:
        """Ends a run that was asked to stop earlier.

        Raises:
            Stopped: it was.
        """
        self._stop_behind_last(PUBLISH)

    def start_over(self) -> None:
        """Forgets what was counted: the stages are gone through again, most of them complete."""
        self.cut_short, self.removals, self.report, self.manifests = None, {}, Report(), {}
        self.progress.bytes = 0

    def _stop_behind_last(self, name: str) -> None:
        names = stops()
        if names.index(name) > names.index(self.last) and name != names[-1]:
            raise Stopped
