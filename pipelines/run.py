"""A run in progress: its plan, where it runs, and what it has made so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipelines.errors import NightrankError
from pipelines.models.protocols import ResolvedModel
from pipelines.planning import Plan
from pipelines.runtime.executor import Executor, run_stage
from pipelines.runtime.progress import Progress
from pipelines.runtime.stage import Stage
from pipelines.stages import tokenize
from pipelines.storage.dataset import Dataset, Manifest
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.store import Store

# What operators name in --from and --to, in order: the files of `stages`.
STAGES = (
    "ingest",
    "delta",
    "segment",
    "distinct",
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
        last: the run stops after this stage.
        made: manifests by short name.
        index_generation: the index generation that results are made from.
    """

    plan: Plan
    store: Store
    executor: Executor
    progress: Progress
    first: str = STAGES[0]
    last: str = "publish"
    made: dict[str, Manifest] = field(default_factory=dict)
    index_generation: int = 0

    def goes_on_to(self, stage: str) -> bool:
        """Whether the run was told to go as far as `stage`."""
        return STAGES.index(stage) <= STAGES.index(self.last)

    def stage(self, name: str, stage: Stage) -> Manifest:
        """Brings one stage to completion and remembers its manifest.

        Raises:
            NightrankError: E_USAGE where the stage lies before `first` and is not complete; else
                what `run_stage` raises.
        """
        early = stage.kind in STAGES and STAGES.index(stage.kind) < STAGES.index(self.first)
        if early and Dataset(self.store, stage.dataset).manifest() is None:
            what = f"--from {self.first}: stage {stage.name} before it is not complete"
            raise NightrankError("E_USAGE", what, stage.dataset, "run without --from")
        manifest = run_stage(stage, self.store, self.executor, self.progress)
        self.made[name] = manifest
        return manifest

    def terms(self, kind: str) -> Manifest | None:
        """BM25's terms of the `documents` or the `queries`; None where it has no weight."""
        bm25 = self.plan.config.retrieve.bm25
        if not bm25.weight:
            return None
        folder, texts = self._texts(kind)
        path = f"{folder}/terms-{fingerprint({'language': bm25.language})}"
        made = tokenize.terms_stage(path, kind, texts, bm25.language)
        return self.made.get(f"{kind}.terms") or self.stage(f"{kind}.terms", made)

    def tokens(self, kind: str, model: ResolvedModel) -> Manifest:
        """Tokens of the `documents` or the `queries`; models with one tokenizer share them."""
        key = f"tokens-{fingerprint({'tokenizer': model.tokenizer})}"
        if f"{kind}.{key}" in self.made:
            return self.made[f"{kind}.{key}"]
        folder, texts = self._texts(kind)
        return self.stage(f"{kind}.{key}", tokenize.stage(f"{folder}/{key}", kind, texts, model))

    def _texts(self, kind: str) -> tuple[str, Manifest]:
        """Where the datasets of the `documents` or the `queries` lie, and their texts."""
        if kind == "documents":
            return self.plan.segment, self.made["documents"]
        return self.plan.queries, self.made["distinct"]
