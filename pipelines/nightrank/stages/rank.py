"""Gathers pair scores by query and makes the ranked lists of one rerank step.

In: lists so far, scores of the step. Out, always: `pool` (full-depth lists) and `scatter` (the head
for the next step). Before the last step also `lost` (pairs without a finite score so far), after it
what is published: `ranked`, `queries`, `rejects`, and `lists` for the next night to compare with.
Cardinality: one shard per query shard. Knows nothing about: texts (unless asked to repeat columns),
models, judgements.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.config.column_names import score_column
from nightrank.datasets.fan_out import Published, fan_out, publish_schemas
from nightrank.datasets.lists import scatter
from nightrank.errors import NightrankError
from nightrank.retrieval import ranking
from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.storage import schemas
from nightrank.storage.dataset import Manifest, Payload
from nightrank.storage.gather import Gathered, gather
from nightrank.storage.reader import Reader

VERSION = 5
# How deep lists are compared with those of another precision.
COMPARED = 10


@dataclass(frozen=True)
class Settings:
    """What a rank stage needs to know of the config; plain and part of its identity.

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


def plan(
    lists: Manifest, file: str, scores: list[Manifest], published: Published | None
) -> tuple[Task, ...]:
    """One task per query shard, with the ranges of the score files that belong to it."""
    tasks = []
    gathered = gather([ref for made in scores for ref in made.files("scores")])
    for number, shard in enumerate(lists.shards):
        mine = gathered.get(number, Gathered())
        args: dict[str, Any] = {"list": shard.files[file], "scores": mine.packed}
        if "lost" in shard.files:
            args["lost"] = shard.files["lost"]
        # Of the first shard alone queries were scored in fp32 too.
        if number == 0:
            shards = (shard for made in scores for shard in made.shards)
            args["exact"] = [shard.stats["exact"] for shard in shards if "exact" in shard.stats]
        if published:
            args["published"] = published.of_shard(number)
        tasks.append(Task(shard.shard, args, shared=mine.files))
    return tuple(tasks)


class Worker:
    """Joins, fuses, sorts; fans out after the last step."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self._settings = Settings(
            **{**config["settings"], "steps": tuple(config["settings"]["steps"])}
        )
        self._published = config["published"]

    def __call__(self, task: Task, read: Reader) -> Payload:
        """The score that could not be computed rejects its pair, never its neighbours."""
        settings = self._settings
        lists = self._with_first_stage(read.table(task.args["list"]))
        rejected, precision = schemas.LOST.empty_table(), None
        if settings.step >= 0:
            found = Gathered(task.shared, task.args["scores"])
            parts = [read.range(ref, part) for _, ref, part in found]
            scores = pa.concat_tables([schemas.SCORES.empty_table(), *parts])
            if task.args.get("exact"):
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
        if "lost" in task.args:
            lost.append(read.table(task.args["lost"]))
        if not settings.is_last:
            return Payload({**files, "lost": pa.concat_tables(lost)}, stats)
        given = task.args["published"]
        made, counts = fan_out(pool, pa.concat_tables(lost), given, self._published, read)
        return Payload({**files, **made}, {**stats, **counts})

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

    def _rescore(self, lists: pa.Table, scores: pa.Table, task: Task) -> tuple[pa.Table, pa.Table]:
        """The lists with this step's scores in them, and with a reason the rows that have none."""
        settings = self._settings
        head = lists["rank"].to_numpy() <= settings.depth
        raw, crashed = np.full(lists.num_rows, np.nan, dtype=np.float32), np.zeros_like(head)
        aligned = _aligned(lists.filter(pa.array(head)), scores, task)
        raw[head], crashed[head] = aligned.to_numpy(), aligned.is_null()
        usable = head & np.isfinite(raw)
        query = lists["query"].to_numpy()
        first = lists["first_stage_score"].to_numpy()
        # A pair without a finite score stands in with 0 until the tail has its place, then goes.
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

    def _precision(self, lists: pa.Table, scores: pa.Table, task: Task) -> dict[str, float]:
        """What the model's precision changes in the best 10 of the queries scored in fp32 too."""
        columns = [list(chain(*parts)) for parts in zip(*task.args["exact"], strict=True)]
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


def _aligned(head: pa.Table, scores: pa.Table, task: Task) -> pa.ChunkedArray:
    """The scores (float32) of the head's pairs, in its order; each pair exactly once.

    Raises:
        NightrankError: E_ACCOUNTING where a pair has no score, or a score has no pair.
    """
    wanted = (head["query"].to_numpy(), head["ordinal"].to_numpy())
    found = (scores["query"].to_numpy(), scores["ordinal"].to_numpy())
    order, source = np.lexsort(wanted[::-1]), np.lexsort(found[::-1])
    equal = len(order) == len(source) and all(
        np.array_equal(w[order], f[source]) for w, f in zip(wanted, found, strict=True)
    )
    if not equal:
        what = f"{len(order)} pairs were to be scored, found scores of {len(source)}"
        raise NightrankError("E_ACCOUNTING", what, f"rank, {task.shard}", "please report this")
    place = np.empty(len(order), dtype=np.int64)
    place[order] = source
    return scores["score"].take(pa.array(place))


def stage(
    dataset: str,
    lists: Manifest,
    file: str,
    scores: list[Manifest],
    settings: Settings,
    published: Published | None,
) -> Stage:
    """Assembles the stage; `scores` of all bands of depth, `published` for the last step."""
    steps = list(settings.steps)
    plain = {**settings.__dict__, "steps": steps}
    tables = {
        "pool": schemas.pool(steps, settings.hybrid),
        "scatter": schemas.PAIRS,
        "lost": schemas.LOST,
    }
    if published:
        tables |= publish_schemas(steps, settings.hybrid, published)
    name = "rank" if settings.is_last else f"rank {settings.steps[settings.step]}"
    config = {"settings": plain, "published": published.settings() if published else None}
    return Stage(
        name=name,
        version=VERSION,
        dataset=dataset,
        identity={"of": lists.path, "scores": [made.path for made in scores], **config},
        tasks=plan(lists, file, scores, published),
        worker=WorkerSpec(Worker, config),
        schemas=tables,
    )
