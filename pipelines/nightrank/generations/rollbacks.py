"""Publishes an older generation again, and ends that: `nightrank rollback`, `nightrank resume`.

A rollback is a log entry that names an older generation's files. Its watermark is its own number,
so that every run that was planned before is stale. It stays in force until a `resume` entry or a
forced publication follows; until then nothing else is published.
"""

from __future__ import annotations

from nightrank.errors import NightrankError
from nightrank.generations.entries import ResultsEntry
from nightrank.generations.results import check_files, generation_of
from nightrank.storage.log import Entry, Log, Moved, held_back
from nightrank.storage.store import Store

RACES = 20


def roll_back(store: Store, to: str, reason: str) -> Entry:
    """Publishes the files of an older generation under a new number.

    Args:
        store: the lake.
        to: the generation's number, or a day: the last one published by its end, UTC.
        reason: stored in the entry.

    Returns:
        The new entry; `rolled_back_from` and `rolled_back_to` are the numbers of what readers saw
        before and see now.

    Raises:
        NightrankError: as `generation_of`; E_CORRUPT for a file that is missing; E_CONFLICT where
            publications keep coming in between.
    """
    log = Log(store, "results")
    for _ in range(RACES):
        entry, current = generation_of(store, to), log.current()
        check_files(store, entry)  # That they exist; `verify` reads them too.
        onto = current.generation if current else 0
        body = {**entry.body, "kind": "rollback", "reason": reason}
        body |= {"rolled_back_from": onto, "rolled_back_to": entry.generation}
        uses = ResultsEntry.of(entry).read_datasets()
        try:
            return log.append(body, None, uses=uses, onto=onto, over_rollback=True)
        except Moved:
            continue
    raise _too_many_races()


def resume(store: Store, reason: str = "") -> Entry | None:
    """Ends the rollback that is in force, for runs that are planned from now on.

    Args:
        store: the lake.
        reason: stored in the entry.

    Returns:
        The rollback that was in force; None if there was none, or a forced publication has ended it
        meanwhile.

    Raises:
        NightrankError: E_CONFLICT if another rollback was added meanwhile, or entries keep coming.
    """
    log, seen = Log(store, "results"), None
    for _ in range(RACES):
        numbers = log.generations()
        rollback = log.in_force(numbers)
        if rollback is None:
            return None
        if seen and seen.generation != rollback.generation:
            what = f"generation {rollback.generation}, another rollback, was added meanwhile"
            do = "look at `nightrank history CONFIG`, then run `resume` again"
            raise NightrankError("E_CONFLICT", what, "results", do)
        seen = rollback
        body = {"kind": "resume", "resumes": rollback.generation, "reason": reason}
        if log.claim(numbers[-1] + 1, body):
            return rollback
    raise _too_many_races()


def refuse_held(store: Store) -> None:
    """Ends a run that could not publish, before anything is spent.

    Raises:
        NightrankError: E_GATE where a rollback is in force.
    """
    if rollback := Log(store, "results").in_force():
        raise held_back(rollback)


def _too_many_races() -> NightrankError:
    do = "find out who else publishes here"
    return NightrankError("E_CONFLICT", f"lost {RACES} races for a number", "results", do)
