"""What a run recomputes that the current generation has already, and why.

The plan of the current generation is stored with its results; differences between its identity
and that of the next run come from an upgrade, another model or another setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nightrank.generations.corpus import current_results
from nightrank.generations.planning import Plan
from nightrank.generations.reuse import keeps_template, lists_key
from nightrank.generations.stage_order import scores_key, vectors_key, versions
from nightrank.storage.sealed import unseal
from nightrank.storage.store import Store

CORPUS = "the whole corpus is read, embedded and indexed again, every pair is scored again"
INDEX = "the template and the indexes are built again, every query is searched in all segments"
VECTORS = "every document and query is embedded again, every pair is scored again"
SCORES = "every pair is scored again"
LISTS = "every query is searched again in all segments"
PAIRS = "every pair of this step is scored again"
READERS = "this stage and all that read its output are computed again; the rest is kept"
NEW = "only new data are computed with it; existing results are kept"


@dataclass(frozen=True)
class Reusable:
    """What a run reuses from the lake.

    Attributes:
        segments: documents of the existing segments.
        vectors: their embeddings.
        template: the index template, and with it the indexes.
        lists: lists of the previous generation.
        scores: by rerank step, whether there are scores of exactly its model.
    """

    segments: bool
    vectors: bool
    template: bool
    lists: bool
    scores: tuple[bool, ...]


def reusable(plan: Plan) -> Reusable:
    """Decides by the keys that the run itself compares."""
    base, earlier = plan.usable_base, plan.earlier
    vectors = base is not None and base.vectors_key == vectors_key(plan.encoder)
    template = vectors and keeps_template(plan)
    lists, stores = False, dict[str, Any]()
    if base and earlier:
        key = lists_key(plan.config, base.template)
        lists = template and key == earlier.lists_key
        stores = earlier.stores
    scores = tuple(scores_key(model) in stores for model in plan.steps)
    return Reusable(base is not None, vectors, template, lists, scores)


def recomputed(plan: Plan, store: Store) -> list[dict[str, Any]]:
    """Every difference from the current generation, and what is computed again for it.

    Returns:
        `what` differs, `before`, `now`, and `again`; empty where nothing is published, the plan of
        the current generation was collected, or nothing differs.
    """
    published = current_results(store)
    if published and published.plan_id == plan.plan_id:  # By other versions of the stages, if any.
        old_versions, new_versions = published.versions, versions()
        return [
            _line(f"stage {name}", version, new_versions.get(name), READERS)
            for name, version in old_versions.items()
            if version != new_versions.get(name)
        ]
    if plan.earlier is None:
        return []
    key = f"{plan.earlier.folder}/plan.json"
    try:
        data = store.read(key)
    except FileNotFoundError:
        return []
    stored = unseal(data, store.path(key), "restore the file: it says how results were computed")
    old, held = stored["identity"], reusable(plan)
    lines = []
    current = versions()
    for name, version in plan.earlier.versions.items():
        if version != (now := current.get(name)):
            lines.append(_line(f"stage {name}", version, now, _of_stage(name, held)))
    encoder = plan.encoder.identity()
    if encoder != old["encoder"]:
        what = f"every document and query is embedded again, {INDEX}; known scores are kept"
        lines.append(_line("encoder", _named(old["encoder"]), _named(encoder), what))
    for number, (step, model) in enumerate(zip(plan.config.rerank, plan.steps, strict=True)):
        olds = [_named(one) for one in old["rerank"]]
        if not held.scores[number] and _named(model.identity()) not in olds:
            known = ", ".join(olds) or "none"
            lines.append(_line(f"model of {step.name}", known, _named(model.identity()), PAIRS))
    current_settings, old_settings = _leaves(plan.config.semantic()), _leaves(old["config"])
    for name in sorted({*old_settings, *current_settings}):
        before_it, after_it = old_settings.get(name), current_settings.get(name)
        if before_it != after_it and not name.endswith((".model", ".revision")):
            lines.append(_line(name, before_it, after_it, _of_setting(name, held)))
    return lines


def _of_stage(name: str, held: Reusable) -> str:
    """What another version of a stage makes void: what its datasets are named by decides."""
    if name in ("ingest", "delta", "extract", "segment", "compact", "copy") and not held.segments:
        return CORPUS
    if name in ("tokenize", "embed") and not held.vectors:
        return VECTORS
    if name in ("terms", "train_index") and not held.template:
        return INDEX
    if name in ("carry", "search", "merge", "build_index") and not held.lists:
        return LISTS
    if name == "rerank" and not all(held.scores):
        return SCORES
    return NEW


def _of_setting(name: str, held: Reusable) -> str:
    """What another value of a key of the config makes void."""
    section = name.partition(".")[0]
    if section in ("corpus", "layout") and not held.segments:
        return CORPUS
    if section in ("index", "retrieve", "encoder") and not held.template:
        return INDEX
    if section in ("index", "retrieve") and not held.lists:
        return LISTS
    return NEW


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Nested settings by dotted keys; items of a list by their number, from 1."""
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
        inner = ((str(number), one) for number, one in enumerate(value, start=1))  # type: ignore[assignment]
    else:
        return {name: value}
    leaves: dict[str, Any] = {}
    for key, one in inner:
        leaves |= _leaves(one, f"{name}.{key}" if name else key)
    return leaves


def _named(identity: dict[str, Any]) -> str:
    """A model in few words: its name, the beginning of its digest, its precision."""
    parts = identity["model"], str(identity["digest"])[:8], identity["precision"]
    return " ".join(str(part) for part in parts if part)


def _line(what: str, before: Any, now: Any, computed: str) -> dict[str, Any]:
    return {"what": what, "before": before, "now": now, "again": computed}
