"""What may be deleted: whatever no retained generation and no unfinished run can reach.

A dataset is deleted as a whole, after it was condemned in both logs: a publisher that was paused
for a month loses the number it would have taken to the condemnation, and is refused. Age only saves
work; the logs are what makes it safe. Log entries are never deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nightrank.errors import NightrankError
from nightrank.generations.entries import IndexEntry, ResultsEntry
from nightrank.models import stored as stored_models
from nightrank.storage.expiry import ages, clock, delete, older
from nightrank.storage.log import Entry, Log
from nightrank.storage.sealed import unseal
from nightrank.storage.store import PROBES, Store

DAY = 86_400.0
# Derived data of a kept segment or of kept queries: cheap to keep, and the next run reads them.
DERIVED = ("tokenize-", "terms-", "embed-")
KEPT_OF_RUN = ("evaluate-",)


@dataclass(frozen=True)
class Doomed:
    """One dataset (or a run's own notes) that nothing needs.

    Attributes:
        path: its folder.
        keys: all files in it.
        bytes: their sizes together.
    """

    path: str
    keys: tuple[str, ...]
    bytes: int


def collectable(store: Store, retain: int, min_age_days: float) -> list[Doomed]:
    """Datasets that no retained generation, nor any unfinished run younger than the age, reaches.

    Args:
        store: the lake.
        retain: generations of either log that are kept, the current one among them; a rollback
            and the generation that it shows are one. While a rollback is in force, what was rolled
            back is kept too.
        min_age_days: nothing younger is touched.

    Raises:
        NightrankError: E_USAGE for a retention of no generation or of less than a day.
    """
    if retain < 1:
        raise NightrankError("E_USAGE", f"--retain {retain}: keep one generation at least", "")
    if min_age_days < 1:
        what = f"--min-age-days {min_age_days:g}: the latest run may still be in use"
        raise NightrankError("E_USAGE", what, "", "give 1 or more")
    now = clock(store)
    kept, folders = _kept(store, retain, min_age_days * DAY, now)
    doomed = []
    for path in _datasets(store):
        folder, name = path.rpartition("/")[::2]
        derived = folder in folders and name.startswith((*DERIVED, *KEPT_OF_RUN))
        if path in kept or derived:
            continue
        keys, age = ages(store, path, now)
        if keys and age >= min_age_days * DAY:
            doomed.append(Doomed(path, tuple(keys), sum(keys.values())))
    gone = {one.path for one in doomed}
    for run in store.folders("results"):
        folder = f"results/{run}"
        if run == "_log" or folder in folders:
            continue
        if all(f"{folder}/{name}" in gone for name in store.folders(folder)):
            notes, age = ages(store, folder, now)
            left = {key: size for key, size in notes.items() if key.count("/") == 2}
            if left and age >= min_age_days * DAY:
                doomed.append(Doomed(folder, tuple(left), sum(left.values())))
    # Of every run's start one is left where its role may not delete.
    probes = older(store, PROBES, now, min_age_days * DAY)
    if probes:
        doomed.append(Doomed(PROBES, tuple(probes), sum(probes.values())))
    return doomed


def _kept(store: Store, retain: int, min_age: float, now: float) -> tuple[set[str], set[str]]:
    """Datasets that are needed, and folders whose derived data stay with them."""
    results, index = Log(store, "results"), Log(store, "index")
    every = results.published()
    entries = _newest(every, retain)
    # Older generations are kept to be read; only the current one is built upon, and what an
    # unfinished run has begun to build upon.
    bases = entries[-1:]
    indexes: dict[int, Entry] = {e.generation: e for e in index.published()[-retain:]}
    models: list[dict[str, Any]] = []  # By identity.
    published = {entry.body["folder"] for entry in every}
    for run in store.folders("results"):
        folder = f"results/{run}"
        if run == "_log" or folder in published:
            continue
        _, age = ages(store, folder, now)
        if age < min_age and "plan.json" in store.files(folder):
            key = f"{folder}/plan.json"
            plan = unseal(store.read(key), store.path(key), "move the file away")
            models += [plan["identity"]["encoder"], *plan["identity"]["rerank"]]
            if plan["result_generation"]:
                bases.append(results.read(plan["result_generation"]))
            if plan["index_generation"]:
                number = plan["index_generation"]
                indexes[number] = index.read(number)
    entries += bases
    if (rollback := results.in_force()) and (source := rollback.body.get("rolled_back_from")):
        entries.append(results.read(source))
    for entry in entries:
        number = entry.body["index_generation"]
        indexes[number] = index.read(number)
    kept: set[str] = set()
    folders: set[str] = set()
    for entry in indexes.values():
        generation = IndexEntry.of(entry)
        kept.update(generation.datasets())
        models.append(generation.encoder)
        folders.update(segment.path for segment in generation.segments)
    for entry in entries:
        results_entry = ResultsEntry.of(entry)
        kept.update(results_entry.read_datasets())
        models += results_entry.models
        folders.update((results_entry.folder, results_entry.queries))
    for entry in bases:
        kept.update(ResultsEntry.of(entry).reused_datasets())
    kept.update(map(stored_models.dataset_of, models))
    return kept, folders


def _newest(entries: list[Entry], retain: int) -> list[Entry]:
    """The newest entries that show so many different states, oldest first."""
    kept: list[Entry] = []
    states: set[str] = set()
    for entry in reversed(entries):
        states.add(entry.body["datasets"]["rank"])
        if len(states) > retain:
            break
        kept.append(entry)
    return kept[::-1]


def _datasets(store: Store) -> list[str]:
    """Every dataset of the lake."""
    paths = [f"templates/{name}" for name in store.folders("templates")]
    names = store.folders(stored_models.FOLDER)
    paths += [f"{stored_models.FOLDER}/{n}" for n in names if not n.startswith("_")]
    for top in ("segments", "queries", "results"):
        for folder in store.folders(top):
            if folder != "_log":
                paths += [f"{top}/{folder}/{name}" for name in store.folders(f"{top}/{folder}")]
    return paths


def _step(key: str) -> int:
    """When a file is deleted: what says that others are there goes before them.

    What is left of a dataset when this is cut short then counts as unfinished and is computed
    again.
    """
    parent, _, name = key.rpartition("/")
    if parent.endswith("/_data"):
        return 2
    return 0 if name in ("manifest.json", "plan.json") else 1


def collect(store: Store, retain: int, min_age_days: float) -> list[Doomed]:
    """Condemns in both logs, then deletes.

    Raises:
        NightrankError: E_CONFLICT where publications keep coming in between; as `collectable`.
    """
    for _ in range(20):
        logs = [Log(store, channel) for channel in ("index", "results")]
        numbers = [log.last() for log in logs]
        doomed = collectable(store, retain, min_age_days)
        if not doomed:
            return []
        condemned = sorted(one.path for one in doomed if one.path != PROBES)
        body = {"kind": "condemn", "condemned": condemned}
        # What was published meanwhile may reach what is doomed: then look again. Probes never do.
        if not condemned or all(
            log.claim(n + 1, body) for log, n in zip(logs, numbers, strict=True)
        ):
            keys = [key for one in doomed for key in one.keys]
            for some in ([k for k in keys if _step(k) == step] for step in range(3)):
                delete(store, some)
            return doomed
    do = "run it again when no run is about to publish"
    raise NightrankError("E_CONFLICT", "lost 20 races for the log", "gc", do)
