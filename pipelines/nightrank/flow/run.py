"""A run in progress: its plan, where it runs, and what it has made so far."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from nightrank.errors import NightrankError
from nightrank.generations.corpus import Corpus, Segment
from nightrank.generations.gate import Removals
from nightrank.generations.planning import Plan
from nightrank.models.protocols import ResolvedModel
from nightrank.runtime.budget import Meter
from nightrank.runtime.executor import Executor, run_stage
from nightrank.runtime.progress import Progress
from nightrank.runtime.stage import Stage
from nightrank.stages import tokenize
from nightrank.storage.dataset import Dataset, Manifest
from nightrank.storage.fingerprint import fingerprint
from nightrank.storage.log import Entry
from nightrank.storage.store import Store

# What operators name in --from and --to, in order: the files of `stages`.
STAGES = (
    "ingest",
    "delta",
    "extract",
    "segment",
    "distinct",
    "tokenize",
    "embed",
    "train_index",
    "build_index",
    "carry",
    "search",
    "merge",
    "rerank",
    "rank",
    "changes",
    "publish",
    "evaluate",
)


@dataclass
class Run:
    """One run of a plan.

    Attributes:
        first: stages before this one must be complete already.
        last: the run stops after this stage.
        made: manifests by short name, of what is not a segment's own.
        corpus: the segments that results are made from.
        index: the entry of the index generation they stand in.
        embedded: documents that got a vector for this generation.
        template: what that entry says of the index template.
        gate: whether the limits of the config decide about publication.
        force_publish: why a night is to be published though it does not pass; empty otherwise.
        removals: documents of a published index generation (0: of the base) that this run's corpus
            is without, by its number, as counted so far.
        meter: when the run has to end.
        standing: the published generation that the new lists are compared with.
        cut_short: why it ends before all is scored, where a part is published for all that.
        reached: how deep the last rerank step came then.
        precision: by rerank step, what its precision changes in the best 10, as measured.
        began: `time.monotonic()` when the run did.
    """

    plan: Plan
    store: Store
    executor: Executor
    progress: Progress
    first: str = STAGES[0]
    last: str = "publish"
    made: dict[str, Manifest] = field(default_factory=dict)
    corpus: Corpus = field(default_factory=Corpus)
    index: Entry | None = None
    embedded: int = 0
    template: dict[str, Any] = field(default_factory=dict)
    gate: bool = False
    force_publish: str = ""
    removals: dict[int, Removals] = field(default_factory=dict)
    meter: Meter | None = None
    standing: Entry | None = None
    cut_short: NightrankError | None = None
    reached: int | None = None
    precision: dict[str, dict[str, Any]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def goes_on_to(self, stage: str) -> bool:
        """Whether the run was told to go as far as `stage`."""
        return STAGES.index(stage) <= STAGES.index(self.last)

    def depth(self) -> int:
        """How deep the last step has scored the lists; 0 without one."""
        return self.reached or (self.plan.config.rerank[-1].depth if self.plan.steps else 0)

    def at_depth(self, name: str) -> str:
        """A dataset of what is published; one of its own where only a part of the depth is."""
        return f"{self.plan.folder}/{name}" + (f"-at-{self.reached}" if self.reached else "")

    def start_over(self) -> None:
        """Forgets what was made: the stages are gone through again, and find most of it done."""
        asked = ("first", "last", "gate", "force_publish", "meter", "began")
        kept = {name: getattr(self, name) for name in asked}
        fresh = Run(self.plan, self.store, self.executor, self.progress, **kept)
        vars(self).update(vars(fresh))
        self.progress.bytes = 0

    def stage(self, name: str, stage: Stage) -> Manifest:
        """Brings one stage to completion and remembers its manifest.

        Raises:
            NightrankError: E_USAGE where the stage lies before `first` and is not complete; else
                what `run_stage` raises.
        """
        self.made[name] = self._complete(stage)
        return self.made[name]

    def of_segment(self, segment: Segment, name: str, stage: Stage) -> Manifest:
        """As `stage`, for a dataset of one segment; what stands already is not told of."""
        if name not in segment.made:
            standing = Dataset(self.store, stage.dataset).manifest()
            segment.made[name] = standing or self._complete(stage)
        return segment.made[name]

    def _complete(self, stage: Stage) -> Manifest:
        early = stage.kind in STAGES and STAGES.index(stage.kind) < STAGES.index(self.first)
        if early and Dataset(self.store, stage.dataset).manifest() is None:
            what = f"--from {self.first}: stage {stage.name} before it is not complete"
            raise NightrankError("E_USAGE", what, stage.dataset, "run without --from")
        # Once a run is cut short, what it has is still brought to its readers.
        limit = self.meter.reason if self.meter and not self.cut_short else str
        return run_stage(stage, self.store, self.executor, self.progress, limit)

    def terms_name(self) -> str:
        """The folder of BM25's terms."""
        language = self.plan.config.retrieve.bm25.language
        return f"terms-{fingerprint({'language': language})}"

    def query_terms(self) -> Manifest | None:
        """BM25's terms of the queries; None where it has no weight."""
        bm25 = self.plan.config.retrieve.bm25
        if not bm25.weight:
            return None
        path = f"{self.plan.queries}/{self.terms_name()}"
        stage = tokenize.terms_stage(path, "queries", self.made["distinct"], bm25.language)
        return self.made.get("queries.terms") or self.stage("queries.terms", stage)

    def document_terms(self, segment: Segment) -> Manifest | None:
        """BM25's terms of a segment's documents; None where it has no weight."""
        bm25 = self.plan.config.retrieve.bm25
        if not bm25.weight:
            return None
        path = f"{segment.path}/{self.terms_name()}"
        texts = segment.made["documents"]
        stage = tokenize.terms_stage(path, "documents", texts, bm25.language)
        return self.of_segment(segment, "documents.terms", stage)

    def query_tokens(self, model: ResolvedModel) -> Manifest:
        """Tokens of the queries; models with one tokenizer share them."""
        name = tokens_name(model)
        if name not in self.made:
            path = f"{self.plan.queries}/{name}"
            self.stage(name, tokenize.stage(path, "queries", self.made["distinct"], model))
        return self.made[name]

    def document_tokens(self, segment: Segment, model: ResolvedModel) -> Manifest:
        """Tokens of a segment's documents; models with one tokenizer share them."""
        name = tokens_name(model)
        path, texts = f"{segment.path}/{name}", segment.made["documents"]
        return self.of_segment(segment, name, tokenize.stage(path, "documents", texts, model))


def tokens_name(model: ResolvedModel) -> str:
    """The folder of a tokenizer's tokens."""
    return f"tokens-{fingerprint({'tokenizer': model.tokenizer})}"
