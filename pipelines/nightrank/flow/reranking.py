"""One rerank step: pairs scored where their documents are, lists ranked by the scores."""

from __future__ import annotations

import dataclasses
from typing import Any

from nightrank.datasets.fan_out import FanOut
from nightrank.errors import NightrankError
from nightrank.flow.bands import bands_of, scored_depth
from nightrank.flow.run import Run
from nightrank.flow.tokens import document_tokens, query_tokens
from nightrank.flow.values import Index, Lists, Queries, Step
from nightrank.generations import accounting
from nightrank.generations.corpus import compactions, lineage
from nightrank.generations.planning import Plan
from nightrank.generations.stage_order import scores_key
from nightrank.models.protocols import ResolvedModel
from nightrank.stages import rank
from nightrank.stages import rerank as scoring
from nightrank.storage.dataset import Dataset, Manifest


def rerank(run: Run, step: Step, lists: Lists, queries: Queries, index: Index) -> Lists:
    """Scores the head of every list and ranks by the scores; without a model only ranks."""
    scores: list[Manifest] = []
    reached = None
    if step.model:
        scores, reached = _score(run, step, step.model, lists, queries, index)
    ranked = _rank(run, step, lists, scores, reached, queries, index)
    precision = dict(lists.precision)
    if step.model and (measured := _precision(run.plan, step, step.model, ranked)):
        precision[step.name] = measured
    return dataclasses.replace(
        lists,
        latest=ranked,
        scores=(*lists.scores, tuple(scores)) if step.model else lists.scores,
        precision=precision,
        reached=reached,
    )


def _score(
    run: Run, step: Step, model: ResolvedModel, lists: Lists, queries: Queries, index: Index
) -> tuple[list[Manifest], int | None]:
    """The scores of one step, of the last one in bands of depth where the plan has such.

    Returns:
        The manifests, and the depth that was reached where the budget ended before all was scored.

    Raises:
        NightrankError: E_BUDGET, unless a part of the depth is to be published.
    """
    plan, scores = run.plan, list[Manifest]()
    inputs = _score_inputs(run, step, model, lists, queries, index)
    for band in bands_of(plan, step):
        of_band = dataclasses.replace(inputs, ranks=(band.low, band.high), head=step.depth)
        try:
            scored = run.complete(scoring.STAGE, plan.folder, of_band, band.label)
        except NightrankError as error:
            publishes_part = plan.config.budget.on_budget == "publish_depth" and band.low > 0
            if error.code != "E_BUDGET" or not publishes_part:
                raise
            what = f"{error.what}; published at a depth of {band.low}"
            run.cut_short = NightrankError(error.code, what, error.where, error.do)
            return scores, band.low
        run.check(accounting.check_scores, scored, model)
        run.report.scored.append(scored)
        scores.append(scored)
    return scores, None


def _score_inputs(
    run: Run, step: Step, model: ResolvedModel, lists: Lists, queries: Queries, index: Index
) -> scoring.Inputs:
    """The pairs of one step, and where earlier runs' scores of the same model are."""
    plan = run.plan
    stores, origins = list[Manifest](), dict[int, Manifest]()
    if plan.earlier:
        steps = lineage(run.store, index.entry, plan.earlier.index_generation)
        if steps is not None:
            paths = plan.earlier.stores.get(scores_key(model), [])
            known = [Dataset(run.store, path).manifest() for path in paths]
            # Of a generation that was rolled back to, `gc` may have taken some.
            stores = [manifest for manifest in known if manifest is not None]
            origins = dict(compactions(run.store, steps) or ())
    return scoring.Inputs(
        lists.latest,
        queries.distinct,
        query_tokens(run, queries.distinct, model),
        {part.number: document_tokens(run, part, model) for part in index.corpus.segments},
        model,
        plan.config.rerank[step.number].unit_tokens,
        tuple(stores),
        origins,
        keep_all=bool(origins) or len(stores) >= plan.config.nightly.store_files,
        checked=scoring.to_check(queries.distinct, model, tuple(stores)),
    )


def _rank(
    run: Run,
    step: Step,
    lists: Lists,
    scores: list[Manifest],
    reached: int | None,
    queries: Queries,
    index: Index,
) -> Manifest:
    """Gathers the scores of one step; after the last also makes what is published."""
    plan, config = run.plan, run.plan.config
    names = tuple(one.name for one in config.rerank)
    hybrid = config.retrieve.bm25.weight > 0
    depth = reached or step.depth
    settings = rank.StepSettings(names, step.number, depth, step.weight, step.next_depth, hybrid)
    depths = [*(one.depth for one in config.rerank[:-1]), scored_depth(plan, reached)]
    policy = "+".join(f"{name}@{deep}" for name, deep in zip(names, depths, strict=False))
    fan_out = FanOut(
        queries.distinct,
        queries.embeddings,
        {part.number: part.documents for part in index.corpus.segments},
        config.results.keep,
        tuple(config.results.document_columns),
        policy or "first_stage",
        config.queries,
        config.corpus,
    )
    file = "pool" if step.number > 0 else "candidates"
    inputs = rank.Inputs(lists.latest, file, scores, settings, fan_out if step.is_last else None)
    return run.complete(
        rank.STAGE, plan.folder, inputs, "rank" if step.is_last else f"rank {step.name}"
    )


def _precision(
    plan: Plan, step: Step, model: ResolvedModel, ranked: Manifest
) -> dict[str, Any] | None:
    """What a step's precision changes: as just measured, else as it was under the same model."""
    if ranked.shards and (measured := ranked.shards[0].stats.get("precision")):
        return {"precision": model.precision, **measured}
    earlier = plan.earlier
    if model.precision == "fp32" or earlier is None or scores_key(model) not in earlier.stores:
        return None
    return earlier.precision.get(step.name)
