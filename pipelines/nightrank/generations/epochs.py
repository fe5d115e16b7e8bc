"""Finds or creates the folder of a run, and records in its `plan.json` what the run builds on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    base: Entry | None
    earlier: Entry | None
    bands: tuple[int, ...]


def epoch_of(
    store: Store,
    plan_id: str,
    identity: dict[str, Any],
    base: Entry | None,
    current: Entry | None,
    bands: list[int],
    ranked: str,
    keeps: bool,
) -> Epoch:
    """The run's folder, its watermark, the generation if the plan is published and current.

    A plan is a no-op only while it is current; run again later it takes the next epoch. What it
    builds on is fixed when its folder is created: a resumed run continues from there, and so does
    one that was published before all was scored. `ranked` is the corpus of an index that is ranked
    without changes: a folder with the index generation of another corpus belongs to a run that
    had to build that corpus first; the next epoch is taken.
    """
    log, index_log = Log(store, "results"), Log(store, "index")
    generation, published = log.last(), None
    if current and current.body["plan_id"] == plan_id:
        folder, generation = current.body["folder"], current.body["watermark"]
        published = None if current.body["unfinished"] else current.generation
    else:
        epochs = [
            entry.body["epoch"] for entry in log.published() if entry.body["plan_id"] == plan_id
        ]
        folder = f"results/{plan_id[:SHORT]}.{max(epochs, default=-1) + 1}"
    body = {
        "plan_id": plan_id,
        "watermark": generation,
        "index_generation": base.generation if base else 0,
        "result_generation": current.generation if current else 0,
        "bands": bands,
        "identity": identity,
    }
    do = "move the file away and run the same command again: it makes a new plan"
    while True:
        key = f"{folder}/plan.json"
        if store.put_if_absent(key, seal(body, readable=True)) if keeps else not store.exists(key):
            return Epoch(folder, generation, published, base, current, tuple(bands))
        given = unseal(store.read(key), store.path(key), do)
        number = given["index_generation"]
        index = index_log.read(number) if number else None
        if published or not ranked or (index and index.body["corpus_id"] == ranked):
            break
        stem, _, epoch = folder.rpartition(".")
        folder = f"{stem}.{int(epoch) + 1}"
    # A run that started before keeps its watermark, unless a later plan was published since, or a
    # garbage collection condemned the folder without deleting it. Then it gets a new watermark: the
    # identity of the plan is the same.
    overtaken = current is not None and current.body["watermark"] > given["watermark"]
    given_up = any(path.startswith(f"{folder}/") for path in log.condemned(given["watermark"]))
    if published is None and not overtaken and not given_up:
        generation = given["watermark"]
    earlier = log.read(number) if (number := given["result_generation"]) else None
    return Epoch(folder, generation, published, index, earlier, tuple(given["bands"]))
