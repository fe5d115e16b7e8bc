"""Finds or creates the folder of a run, and records in its `plan.json` what the run builds on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nightrank.generations.corpus import index_generation
from nightrank.generations.entries import IndexEntry, ResultsEntry
from nightrank.storage.fingerprint import SHORT
from nightrank.storage.log import Entry, Log
from nightrank.storage.sealed import seal, unseal
from nightrank.storage.store import Store


@dataclass(frozen=True)
class Epoch:
    """The folder of a run's own datasets, and the generations that it builds on.

    Attributes:
        folder: `results/<id>.<epoch>`.
        watermark: last number of the results log when the run was planned.
        published: the generation that already has the results of this plan, if current.
        base: the index generation that it builds on.
        earlier: the result generation that it builds on.
        bands: depths that the last rerank step completes one after the other.
    """

    folder: str
    watermark: int
    published: int | None
    base: IndexEntry | None
    earlier: ResultsEntry | None
    bands: tuple[int, ...]


@dataclass(frozen=True)
class PlanIdentity:
    """What a plan is, before its folder is known.

    Attributes:
        plan_id: sha256 hex of everything that can change the results, but stages' versions.
        identity: that, as plain data.
        versions: of the stages; the folder is the same for all of them, its datasets are not.
    """

    plan_id: str
    identity: dict[str, Any]
    versions: dict[str, int]

    def published_by(self, current: Entry | None) -> bool:
        """Whether this generation has exactly these results, complete."""
        if current is None or current.body["plan_id"] != self.plan_id:
            return False
        return current.body["versions"] == self.versions and not current.body["unfinished"]


def epoch_of(
    store: Store,
    plan: PlanIdentity,
    base: IndexEntry | None,
    bands: list[int],
    ranked: str,
    keeps: bool,
) -> Epoch:
    """The run's folder, its watermark, the generation if the plan is published and current.

    A plan is a no-op only while it is current; run again later it takes the next epoch. What it
    builds on is fixed when its folder is created: a resumed run continues from there, and so does
    one that was published before all was scored, or by other versions of the stages.

    Args:
        store: the lake.
        plan: what is run.
        base: the index generation that a new folder builds on.
        bands: depths of a new folder.
        ranked: the corpus of an index that is ranked without changes, else empty. A folder with the
            index generation of another corpus belongs to a run that had to build that corpus
            first; the next epoch is taken.
        keeps: whether the folder is created; without, nothing is written at all.
    """
    log = Log(store, "results")
    current, generation, published = log.current(), log.last(), None
    if current and current.body["plan_id"] == plan.plan_id:
        folder, generation = current.body["folder"], current.body["watermark"]
        published = current.generation if plan.published_by(current) else None
    else:
        entries = [entry for entry in log.published() if entry.body["plan_id"] == plan.plan_id]
        epoch = max((entry.body["epoch"] for entry in entries), default=-1) + 1
        folder = f"results/{plan.plan_id[:SHORT]}.{epoch}"
    body = {
        "plan_id": plan.plan_id,
        "watermark": generation,
        "index_generation": base.generation if base else 0,
        "result_generation": current.generation if current else 0,
        "bands": bands,
        "identity": plan.identity,
        "versions": plan.versions,
    }
    do = "move the file away and run the same command again: it makes a new plan"
    while True:
        key = f"{folder}/plan.json"
        if store.put_if_absent(key, seal(body, readable=True)) if keeps else not store.exists(key):
            earlier = ResultsEntry.of(current) if current else None
            return Epoch(folder, generation, published, base, earlier, tuple(bands))
        stored = unseal(store.read(key), store.path(key), do)
        number = stored["index_generation"]
        index = index_generation(store, number) if number else None
        if published or not ranked or (index and index.corpus_id == ranked):
            break
        stem, _, epoch_text = folder.rpartition(".")
        folder = f"{stem}.{int(epoch_text) + 1}"
    # A run that started before keeps its watermark, unless a later plan was published since, or a
    # garbage collection condemned the folder without deleting it. Then it gets a new watermark: the
    # identity of the plan is the same.
    overtaken = current is not None and current.body["watermark"] > stored["watermark"]
    condemned = any(path.startswith(f"{folder}/") for path in log.condemned(stored["watermark"]))
    if published is None and not overtaken and not condemned:
        generation = stored["watermark"]
    number = stored["result_generation"]
    earlier = ResultsEntry.of(log.read(number)) if number else None
    return Epoch(folder, generation, published, index, earlier, tuple(stored["bands"]))
