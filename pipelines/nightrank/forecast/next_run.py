"""What the next run takes on this lake: a run on an empty lake, less what exists.

A full forecast (`predict`) says what every stage costs on all rows. Here each stage gets the share
that is left of it: documents and texts that are new, pairs without a known score, units that no
earlier attempt has committed.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from typing import Any

from nightrank.flow.bands import bands_of, steps_of
from nightrank.flow.offline_rerank import stages_of
from nightrank.forecast import changes
from nightrank.forecast.changes import DocumentChanges, QueryChanges
from nightrank.forecast.incremental import CARRY, NEW_PAIRS
from nightrank.forecast.lines import LIKE, grows_with_documents
from nightrank.forecast.recomputation import Reusable, recomputed, reusable
from nightrank.generations.corpus import load_corpus
from nightrank.generations.planning import Plan
from nightrank.storage.dataset import Dataset
from nightrank.storage.store import Store

SPENT = ("seconds", "core_seconds", "gpu_seconds", "gpu_hours")


@dataclass(frozen=True)
class StepPairs:
    """Pairs of one rerank step: of all lists to its depth, and those without a known score."""

    needed: int
    to_score: int


@dataclass(frozen=True)
class Pairs:
    """Pairs of all rerank steps.

    Attributes:
        needed: pairs of all lists to their depths.
        known: of them, those that an earlier run or attempt has scored.
        to_score: the others.
        exact: whether that is counted; else it is estimated from what changed.
    """

    needed: int
    known: int
    to_score: int
    exact: bool


def counted(plan: Plan, store: Store) -> tuple[DocumentChanges, QueryChanges]:
    """Reads both inputs in full and counts what changed; writes to a temporary lake alone."""
    with tempfile.TemporaryDirectory(prefix="nightrank-changes-") as folder:
        scratch = Store(folder)
        documents = changes.document_changes(plan, store, scratch)
        return documents, changes.query_changes(plan, store, scratch)


def assumed(
    plan: Plan, store: Store, full: dict[str, Any], share: float
) -> tuple[DocumentChanges, QueryChanges]:
    """As if this share of documents and texts were replaced, where an input is not read.

    Args:
        plan: the run.
        store: its lake.
        full: the forecast of a run from nothing.
        share: 0 to 1.
    """
    rows, kept_rows, texts = full["documents"]["rows"], full["documents"]["kept"], full["queries"]
    base = plan.usable_base
    living = load_corpus(store, base).size() if base else 0
    if base is None:
        documents = DocumentChanges(rows, kept_rows, 0, 0, kept_rows)
    elif plan.corpus_is_indexed:
        documents = DocumentChanges(rows, 0, 0, 0, living)
    else:
        documents = DocumentChanges(rows, 0, round(share * living), 0, living)
    new = texts["distinct"] if plan.earlier is None else round(share * texts["distinct"])
    if plan.earlier and plan.earlier.queries == plan.queries:
        new = 0
    added = texts["kept"] if plan.earlier is None else 0
    changed = 0 if plan.earlier is None else new
    return documents, QueryChanges(
        texts["rows"], texts["kept"], added, changed, 0, texts["distinct"], new
    )


def next_run(
    full: dict[str, Any],
    plan: Plan,
    store: Store,
    documents: DocumentChanges,
    queries: QueryChanges,
    exact: bool = True,
) -> dict[str, Any]:
    """The forecast of the next run.

    Args:
        full: that of a run from nothing, as `predict` gives it.
        plan: the run.
        store: its lake.
        documents: what changed in the corpus.
        queries: what changed in the queries.
        exact: whether both were counted.

    Returns:
        `full` with `stages`, `seconds`, `bytes`, hours, requests and `pairs` (needed) of the next
        run, without sizes of the whole lake; and `next_run`: `documents`, `queries`, `pairs`
        (see `Pairs`), what is computed `again`, and `done` units of earlier attempts.
    """
    if plan.published:  # It was counted against what the same generation was built upon.
        documents = replace(documents, added=0, changed=0, removed=0)
        queries = replace(queries, added=0, changed=0, removed=0, new_texts=0)
    held = reusable(plan)
    steps, counts = pairs(plan, held, documents, queries)
    shares = _shares(plan, held, documents, queries, steps)
    stages: dict[str, dict[str, Any]] = {}
    finished: dict[str, int] = {}
    step_names = {step.name for step in plan.config.rerank}
    planned = [] if plan.published else stages_of(plan, store)
    paths = {stage.label: stage.dataset for stage in planned}  # Of segments, the newest one's.
    for name in dict.fromkeys(stage.label for stage in planned if stage.reported):
        of_all = full["stages"].get(LIKE.get(name, name))
        if of_all is None:
            continue
        time, written = shares.get(name, (1.0, 1.0))
        # Stages of lists have the same units for any changes; those of documents only new ones.
        units = of_all["units"]
        if grows_with_documents(name, step_names):
            units = max(1, round(units * time)) if time else 0
        done = _done(store, paths.get(name, ""), units)
        left = 1.0 - done / units if units else 0.0
        if done:
            finished[name] = done
        stages[name] = {
            "units": units - done,
            **{key: round(of_all[key] * time * left, 4) for key in SPENT},
            "bytes": round(of_all["bytes"] * written * left),
        }
    if stages:
        stages = {"start": full["stages"]["start"], **stages}
    needed = sum(step.needed for step in steps)
    to_score = 0 if plan.published else _to_score(plan, store, steps, paths)
    counted_pairs = Pairs(needed, needed - to_score, to_score, exact and counts)
    return _summed(full, stages) | {
        "pairs": needed,
        "next_run": {
            "documents": changes.plain(documents),
            "queries": changes.plain(queries),
            "counted": exact,
            "pairs": asdict(counted_pairs),
            "again": recomputed(plan, store),
            "done": finished,
        },
    }


def _summed(full: dict[str, Any], stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The forecast with these stages; requests go with what is written."""
    whole = {name: value for name, value in full.items() if name not in ("artifacts", "lake_bytes")}
    seconds, size = (sum(stage[key] for stage in stages.values()) for key in ("seconds", "bytes"))
    written = size / max(1, full["bytes"])
    time = seconds / max(1e-9, full["seconds"])
    return whole | {
        "stages": stages,
        "seconds": round(seconds, 2),
        "bytes": size,
        "cpu_hours": round(full["cpu_hours"] * time, 4),
        "gpu_hours": round(sum(stage["gpu_hours"] for stage in stages.values()), 4),
        "requests": {name: round(count * written) for name, count in full["requests"].items()},
    }


def pairs(
    plan: Plan, held: Reusable, documents: DocumentChanges, queries: QueryChanges
) -> tuple[list[StepPairs], bool]:
    """Pairs of every step, and whether they follow from what changed without an estimate.

    Where documents were added or removed the lists are not known before they are searched: of the
    pairs, `NEW_PAIRS` times the share of the documents that was replaced are taken to be new.
    """
    depth = min(plan.config.retrieve.depth, documents.living)
    removed = documents.removed + documents.changed
    before = documents.living - documents.added + documents.removed
    replaced = max(documents.new / max(1, documents.living), removed / max(1, before))
    unchanged = queries.texts - queries.new_texts
    steps, exact = list[StepPairs](), True
    for number, step in enumerate(plan.config.rerank):
        deep = min(step.depth, depth)
        known = min(deep, _known_depth(plan, number)) if held.scores[number] else 0
        moved = round(unchanged * known * min(1.0, NEW_PAIRS * replaced))
        fresh = queries.new_texts * deep + unchanged * (deep - known) + moved
        steps.append(StepPairs(queries.texts * deep, fresh))
        if held.scores[number]:
            # Texts of older runs may still have known scores, not only those of the last run.
            older = bool(plan.earlier and plan.earlier.run_number)
            exact &= not replaced and held.lists and not (older and queries.new_texts)
    return steps, exact


def _to_score(plan: Plan, store: Store, steps: list[StepPairs], paths: dict[str, str]) -> int:
    """Pairs without a score that earlier attempts at this run have not scored either."""
    left = 0
    for step, planned in zip(steps, steps_of(plan), strict=False):
        datasets = [Dataset(store, paths[band.label]) for band in bands_of(plan, planned)]
        if all(dataset.manifest() for dataset in datasets):
            continue
        records = [one for dataset in datasets for one in dataset.records().values()]
        scored = sum(int(record.stats["pairs_scored"]) for record in records)
        left += max(0, step.to_score - scored)
    return left


def _known_depth(plan: Plan, number: int) -> int:
    """How deep the generation before has scored its lists by a step's model."""
    if plan.earlier is None:
        return 0
    earlier, identity = plan.earlier, plan.steps[number].identity()
    depths = [
        step["depth"]
        for step, model in zip(earlier.config["rerank"], earlier.models[1:], strict=True)
        if model == identity
    ]
    if depths and earlier.models[-1] == identity:  # A part of the depth was published.
        depths[-1] = earlier.rerank_depth
    return max(depths, default=0)


def _shares(
    plan: Plan,
    held: Reusable,
    documents: DocumentChanges,
    queries: QueryChanges,
    steps: list[StepPairs],
) -> dict[str, tuple[float, float]]:
    """What is left of a stage's seconds and bytes, by its name; all of one that is not named."""
    new = min(1.0, documents.new / max(1, documents.living))
    texts = queries.new_texts / max(1, queries.texts)
    searched = min(1.0, texts + 1.0 / plan.config.nightly.audit_nights) if held.lists else 1.0
    vectors, indexed = (new if held.vectors else 1.0), (new if held.template else 1.0)
    shares = {
        "extract": (float(new > 0), new),
        "segment": (new, new),
        "tokenize documents": (vectors, vectors),
        "terms of documents": (new, new),
        "embed documents": (vectors, vectors),
        "build index": (indexed, indexed),
        "embed queries": (texts, 1.0) if held.vectors and plan.earlier else (1.0, 1.0),
        "search new": (new, new),
        "carry": (CARRY, CARRY) if held.lists else (0.0, 0.0),
        "search": (searched, searched),
        "merge": (CARRY + searched / 2, 1.0) if held.lists else (1.0, 1.0),
    }
    for step, planned in zip(steps, steps_of(plan), strict=False):
        # Scores of all pairs travel to their lists again, known or not.
        scored = step.to_score / max(1, step.needed)
        shares |= {band.label: (scored, 1.0) for band in bands_of(plan, planned)}
    return shares


def _done(store: Store, path: str, units: int) -> int:
    """Units of a dataset that earlier attempts have committed, all where it is complete."""
    if not path:
        return 0
    if store.exists(f"{path}/manifest.json"):
        return units
    if not store.folders(path):
        return 0
    return min(units, len(Dataset(store, path).next_attempts()))
