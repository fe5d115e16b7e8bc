"""Gathers pair scores by query and makes the ranked lists of one rerank step.

In: lists so far, scores of the step. Out, always: `pool` (full-depth lists) and `scatter` (the head
for the next step). Before the last step also `lost` (pairs without a finite score so far), after it
what is published: `ranked`, `queries`, `rejects`, and `lists` for the next run to compare with.
Cardinality: one shard per query shard. Knows nothing about: texts (unless asked to repeat columns),
models, judgements.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.config.column_names import score_column
from nightrank.datasets.fan_out import FanOut, FanOutFiles, FanOutSettings, fan_out, publish_schemas
from nightrank.datasets.lists import scatter
from nightrank.errors import NightrankError
from nightrank.retrieval import ranking
from nightrank.runtime.stage import Declaration, Task
from nightrank.storage import schemas
from nightrank.storage.dataset import FileRef, Manifest, Payload
from nightrank.storage.gather import Gathered, gather
from nightrank.storage.reader import Reader

# How deep lists are compared with those of another precision.
COMPARED = 10


@dataclass(frozen=True)
class StepSettings:
    """What a rank stage needs to know of the config.

    Attributes:
        steps: names of all rerank steps.
        step: index of the step whose scores are gathered; -1 where nothing is reranked.
        depth: how many of the list's head that step has rescored.
        weight: first-stage weight of the fusion.
        next_depth: the next step's depth, 0 after the last.
        hybrid: whether lists carry the two scores that the first stage was fused from.
    """

    steps: tuple[str, ...]
    step: int
    depth: int
    weight: float
    next_depth: int
    hybrid: bool

    @property
    def is_last(self) -> bool:
        """Whether this stage writes what is published."""
        return self.step + 1 >= len(self.steps)


@dataclass(frozen=True)
class Inputs:
    """What is gathered.

    Attributes:
        lists: of `merge`, or of the step before.
        file: which file of their shards: `candidates` or `pool`.
        scores: of all bands of depth.
        step: see `StepSettings`.
        fan_out: for the last step, what is published.
    """

    lists: Manifest
    file: str
    scores: list[Manifest]
    step: StepSettings
    fan_out: FanOut | None


@dataclass(frozen=True)
class Settings:
    """Settings of the step, and of what is published after the last."""

    step: StepSettings
    fan_out: FanOutSettings | None


@dataclass(frozen=True)
class Args:
    """One query shard; `Task.shared` are the score files by number.

    Attributes:
        lists: so far.
        scores: ranges of the score files, packed.
        lost: pairs that earlier steps could not score.
        exact: (query, ordinal, score) columns in fp32, of units; of the first shard alone.
        fan_out: what the published files are made of.
    """

    lists: FileRef
    scores: bytes
    lost: FileRef | None = None
    exact: list[list[list[Any]]] = field(default_factory=list)
    fan_out: FanOutFiles | None = None


def tasks(inputs: Inputs) -> list[Task[Args]]:
    """One task per query shard, with the ranges of the score files that belong to it."""
    units = []
    gathered = gather([ref for scores in inputs.scores for ref in scores.files("scores")])
    statistics = [shard.stats for scores in inputs.scores for shard in scores.shards]
    for number, shard in enumerate(inputs.lists.shards):
        mine = gathered.get(number, Gathered())
        args = Args(
            shard.files[inputs.file],
            mine.packed,
            shard.files.get("lost"),
            # Queries of the first shard alone were scored in fp32 too.
            [one["exact"] for one in statistics if "exact" in one] if number == 0 else [],
            inputs.fan_out.of_shard(number) if inputs.fan_out else None,
        )
        units.append(Task(shard.shard, args, shared=mine.files))
    return units


class Worker:
    """Joins, fuses, sorts; fans out after the last step."""

    def __init__(self, settings: Settings, threads: int) -> None:
        self._settings, self._fan_out = settings.step, settings.fan_out

    def __call__(self, task: Task[Args], read: Reader) -> Payload:
        """The score that could not be computed rejects its pair, never its neighbours."""
        settings = self._settings
        lists = self._with_first_stage(read.table(task.args.lists))
        rejected, precision = schemas.LOST.empty_table(), None
        if settings.step >= 0:
            gathered = Gathered(task.shared, task.args.scores)
            parts = [read.range(ref, part) for _, ref, part in gathered]
            scores = pa.concat_tables([schemas.SCORES.empty_table(), *parts])
            if task.args.exact:
                precision = self._precision(lists, scores, task)
            lists, rejected = self._rescore(lists, scores, task)
        pool = ranking.rank(lists, 1 << 30)
        schema = schemas.pool(list(settings.steps), settings.hybrid)
        pool = pool.select(schema.names).cast(schema)
        files: dict[str, Any] = {"pool": pool, "scatter": scatter(pool, settings.next_depth)}
        stats: dict[str, Any] = {"rate_rows": pool.num_rows, "pairs_rejected": rejected.num_rows}
        if precision:
            stats["precision"] = precision
        lost = [rejected.select(schemas.LOST.names).cast(schemas.LOST)]
        if task.args.lost:
            lost.append(read.table(task.args.lost))
        if task.args.fan_out is None or self._fan_out is None:
            return Payload({**files, "lost": pa.concat_tables(lost)}, stats)
        of_shard = task.args.fan_out
        published, counts = fan_out(pool, pa.concat_tables(lost), of_shard, self._fan_out, read)
        return Payload({**files, **published}, {**stats, **counts})

    def _with_first_stage(self, table: pa.Table) -> pa.Table:
        """Adds the columns that a first-stage list does not have yet."""
        if "first_stage_rank" in table.column_names:
            return table
        table = table.append_column("first_stage_rank", table["rank"])
        table = table.append_column("first_stage_score", table["score"])
        names = ["rerank_score"]
        if len(self._settings.steps) > 1:
            names += map(score_column, self._settings.steps)
        nulls = pa.nulls(table.num_rows, pa.float32())
        for name in names:
            table = table.append_column(name, nulls)
        return table

    def _rescore(
        self, lists: pa.Table, scores: pa.Table, task: Task[Args]
    ) -> tuple[pa.Table, pa.Table]:
        """The lists with this step's scores in them, and with a reason the rows that have none."""
        settings = self._settings
        head = lists["rank"].to_numpy() <= settings.depth
        raw, crashed = np.full(lists.num_rows, np.nan, dtype=np.float32), np.zeros_like(head)
        aligned = _aligned(lists.filter(pa.array(head)), scores, task)
        raw[head], crashed[head] = aligned.to_numpy(), aligned.is_null()
        usable = head & np.isfinite(raw)
        query = lists["query"].to_numpy()
        first = lists["first_stage_score"].to_numpy()
        # A pair without a finite score counts as 0 until the tail has its place, then is removed.
        rescored = np.zeros(lists.num_rows, dtype=np.float32)
        rescored[usable] = ranking.fuse(first[usable], raw[usable], query[usable], settings.weight)
        score = ranking.head_then_tail(
            lists["score"].to_numpy(), rescored, query, lists["rank"].to_numpy(), settings.depth
        )
        column = pa.array(raw, pa.float32(), mask=~head)
        for name in ("rerank_score", score_column(settings.steps[settings.step])):
            at = lists.schema.get_field_index(name)
            if at >= 0:
                lists = lists.set_column(at, name, column)
        at = lists.schema.get_field_index("score")
        lists = lists.set_column(at, "score", pa.array(score, pa.float32()))
        lost = head & ~usable
        reasons = pa.array(np.where(crashed, "crashed_worker", "nonfinite_score")[lost].tolist())
        rejected = lists.filter(pa.array(lost)).append_column("reason", reasons.cast(pa.string()))
        return lists.filter(pa.array(~lost)), rejected

    def _precision(self, lists: pa.Table, scores: pa.Table, task: Task[Args]) -> dict[str, float]:
        """What the model's precision changes in the best 10 of the queries scored in fp32 too."""
        columns = [list(chain(*parts)) for parts in zip(*task.args.exact, strict=True)]
        exact = pa.table(dict(zip(schemas.SCORES.names, columns, strict=True)), schemas.SCORES)
        sampled = pc.unique(exact["query"])
        lists = lists.filter(pc.is_in(lists["query"], sampled))
        scores = scores.filter(pc.is_in(scores["query"], sampled))
        ours, theirs = (
            ranking.rank(self._rescore(lists, each, task)[0], COMPARED) for each in (scores, exact)
        )
        both = ours.join(theirs, ["query", "ordinal"], join_type="inner")
        both_scores = (_aligned(exact, each, task).to_numpy() for each in (scores, exact))
        aligned = [each.astype(np.float64) for each in both_scores]
        differences = np.abs(aligned[0] - aligned[1])
        return {
            "queries": len(sampled),
            "compared": ours.num_rows,
            "flipped": ours.num_rows - both.num_rows,
            "largest_difference": float(np.nanmax(differences, initial=0.0)),
            "range": float(np.nanmax(aligned[1]) - np.nanmin(aligned[1])),
        }


def _aligned(head: pa.Table, scores: pa.Table, task: Task[Args]) -> pa.ChunkedArray:
    """The scores (float32) of the head's pairs, in its order; each pair exactly once.

    Raises:
        NightrankError: E_ACCOUNTING where a pair has no score, or a score has no pair.
    """
    wanted = (head["query"].to_numpy(), head["ordinal"].to_numpy())
    scored = (scores["query"].to_numpy(), scores["ordinal"].to_numpy())
    order, source = np.lexsort(wanted[::-1]), np.lexsort(scored[::-1])
    equal = len(order) == len(source) and all(
        np.array_equal(w[order], f[source]) for w, f in zip(wanted, scored, strict=True)
    )
    if not equal:
        what = f"{len(order)} pairs were to be scored, found scores of {len(source)}"
        raise NightrankError("E_ACCOUNTING", what, f"rank, {task.shard}", "please report this")
    place = np.empty(len(order), dtype=np.int64)
    place[order] = source
    return scores["score"].take(pa.array(place))


def schemas_of(inputs: Inputs) -> dict[str, pa.Schema]:
    """Schemas of the shards' tables."""
    steps, hybrid = list(inputs.step.steps), inputs.step.hybrid
    tables = {
        "pool": schemas.pool(steps, hybrid),
        "scatter": schemas.PAIRS,
        "lost": schemas.LOST,
    }
    return tables | (publish_schemas(steps, hybrid, inputs.fan_out) if inputs.fan_out else {})


def settings_of(inputs: Inputs) -> Settings:
    """What the worker needs of the inputs."""
    return Settings(inputs.step, inputs.fan_out.settings() if inputs.fan_out else None)


STAGE = Declaration(
    name="rank",
    version=5,
    pool="general",
    scales_with="lists",
    tasks=tasks,
    worker=Worker,
    settings=settings_of,
    schemas=schemas_of,
)
