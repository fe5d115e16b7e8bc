"""The flow without executing anything: which stages a run consists of, and which are complete.

A stage whose dataset exists is read; of any other only the path is known, and what the data would
decide (a template that is trained again since the corpus has drifted, segments that are merged) is
taken to change nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from nightrank.flow.run import Inputs, Run, Stopped
from nightrank.generations.entries import IndexEntry
from nightrank.generations.planning import Plan
from nightrank.runtime.executor import SerialExecutor
from nightrank.runtime.progress import Progress
from nightrank.runtime.stage import Declaration, Stage
from nightrank.storage.dataset import Dataset, Manifest
from nightrank.storage.log import Entry, Log
from nightrank.storage.store import Store


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a run.

    Attributes:
        label: as operators see it.
        name: the declaration's.
        dataset: its folder.
        complete: whether the dataset exists.
        reported: whether a run reports it: what exists of a segment is not.
    """

    label: str
    name: str
    dataset: str
    complete: bool
    reported: bool


class DryRun(Run):
    """A run whose stages are only listed."""

    def __init__(self, plan: Plan, store: Store, last: str) -> None:
        quiet = Progress(quiet=True)
        super().__init__(plan, store, SerialExecutor(), quiet, last=last, merges=False)
        self.stages: dict[str, PlannedStage] = {}

    def complete(
        self,
        declaration: Declaration[Inputs],
        parent: str,
        inputs: Inputs,
        label: str = "",
        dataset: str = "",
        quiet: bool = False,
    ) -> Manifest:
        """See `Run.complete`: the manifest, or one that only knows its path."""
        self._stop_behind_last(declaration.name)
        path = dataset or declaration.dataset(parent, inputs)
        if path not in self.manifests:
            existing = Dataset(self.store, path).manifest()
            name = label or declaration.name.replace("_", " ")
            complete = existing is not None
            reported = not (complete and quiet)
            planned = PlannedStage(name, declaration.name, path, complete, reported)
            self.stages[path] = planned
            self.manifests[path] = existing or replace(
                declaration.pending(parent, inputs), path=path
            )
        return self.manifests[path]

    def execute(self, stage: Stage) -> Manifest:
        """Never: only `complete` is called before a publication."""
        raise Stopped

    def check(self, function: Callable[..., None], *arguments: Any) -> None:
        """Nothing was counted."""

    def publish_index(self, entry: IndexEntry) -> IndexEntry:
        """As if it were published."""
        return replace(entry, generation=Log(self.store, "index").last() + 1)

    def stop_before_publication(self) -> None:
        """Ends here."""
        raise Stopped


def planned_stages(
    plan: Plan, store: Store, pipeline: Callable[[Run], Entry | None], last: str
) -> list[PlannedStage]:
    """The stages of a run in order, as far as its plan determines them.

    Args:
        plan: what would be run.
        store: its lake; nothing is written.
        pipeline: the flow, `offline_rerank.pipeline`.
        last: the stage that the run stops after.
    """
    dry_run = DryRun(plan, store, last)
    with contextlib.suppress(Stopped):
        pipeline(dry_run)
    return list(dry_run.stages.values())
