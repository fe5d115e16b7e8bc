"""Numbered logs: the only place where results become visible to readers.

Entries are `<channel>/_log/<20 digits>.json`, created if absent; the highest number is current. The
number is the fencing token: a stale writer finds its number taken, reads the log again, and sees
why it may not publish. There are no locks, no leases and no clocks.

An entry's `kind` is `publish`, `rollback` (an older state published again, under a new number),
`condemn` (datasets that garbage collection is about to delete) or `resume` (ends the rollback in
force). A condemned dataset can no longer be published, since the condemnation took the number that
its publisher would have taken. For the same reason nothing is published over a rollback: a
publisher decides by exactly the entries below the number that it takes.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from nightrank.errors import NightrankError
from nightrank.storage.sealed import seal, unseal
from nightrank.storage.store import Store

# Kinds of entries that take a number without publishing a state.
NO_STATE = ("condemn", "resume")


@dataclass(frozen=True)
class Entry:
    """One entry: its number (a generation if it publishes a state, from 1) and its content."""

    generation: int
    body: dict[str, Any]


class Moved(Exception):
    """The current generation is not the one that an entry was compared with."""


def held_back(rollback: Entry) -> NightrankError:
    """The E_GATE error of a rollback in force: what was rolled back, when, why, how to resume."""
    body = rollback.body
    source = body.get("rolled_back_from")  # Missing in entries of earlier versions.
    rolled_back = f"generation {source}" if source else "a newer generation"
    when = body["time"][:16].replace("T", " ")
    reason = body.get("reason") or "no reason given"
    target = f"generation {body['rolled_back_to']}"
    what = f"{rolled_back} was rolled back to {target} at {when} UTC: {reason}"
    do = 'correct what was wrong, then `nightrank resume CONFIG`, or --force-publish "why"'
    where = f"generation {rollback.generation} of the results"
    names = ("rolled_back_from", "rolled_back_to", "time", "reason")
    details = {"generation": rollback.generation, **{name: body.get(name) for name in names}}
    return NightrankError("E_GATE", what, where, do, {"rollback": details})


class Log:
    """One channel (`index` or `results`) of a lake."""

    def __init__(self, store: Store, channel: str) -> None:
        self.store, self.channel = store, channel
        self._folder = f"{channel}/_log"

    def generations(self) -> list[int]:
        """All generation numbers, ascending."""
        names = self.store.files(self._folder)
        return sorted(int(n[:-5]) for n in names if n.endswith(".json") and n[:-5].isdigit())

    def read(self, generation: int) -> Entry:
        """One entry.

        Raises:
            NightrankError: E_EMPTY for an unknown generation, E_CORRUPT for an unreadable entry,
                E_CONFIG for one of another format.
        """
        key = f"{self._folder}/{generation:020d}.json"
        try:
            data = self.store.read(key)
        except FileNotFoundError:
            what = f"generation {generation} of {self.channel} does not exist"
            raise NightrankError("E_EMPTY", what, self.store.path(self._folder)) from None
        return Entry(generation, unseal(data, self.store.path(key), "restore it from a backup"))

    def last(self) -> int:
        """The highest number taken, 0 in an empty log; a plan is fenced by it."""
        return max(self.generations(), default=0)

    def current(self) -> Entry | None:
        """The newest published state; None where nothing is published."""
        return self._newest(self.generations())[0]

    def in_force(self, generations: list[int] | None = None) -> Entry | None:
        """The rollback in force, over which nothing is published; None where there is none.

        Args:
            generations: the numbers to decide by; all of the log by default.
        """
        entry, resumed = self._newest(self.generations() if generations is None else generations)
        is_rollback = entry is not None and entry.body.get("kind") == "rollback"
        return entry if is_rollback and not resumed else None

    def _newest(self, generations: list[int]) -> tuple[Entry | None, bool]:
        """The newest published state, and whether a `resume` follows it."""
        resumed = False
        for number in reversed(generations):
            entry = self.read(number)
            if entry.body.get("kind") not in NO_STATE:
                return entry, resumed
            resumed |= entry.body["kind"] == "resume"
        return None, resumed

    def published(self) -> list[Entry]:
        """All published states, oldest first."""
        return [e for e in self._all(self.generations()) if e.body.get("kind") not in NO_STATE]

    def _all(self, numbers: list[int]) -> list[Entry]:
        """Entries, read in parallel: a year of daily runs has some 400."""
        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(self.read, numbers))

    def as_of(self, when: str) -> Entry:
        """The state of a generation's number, or the last one published by the end of a day (UTC).

        Raises:
            NightrankError: E_USAGE for neither a number nor a date, E_EMPTY for an unknown one.
        """
        if when.isdecimal():
            entry = self.read(int(when))
            if (kind := entry.body.get("kind")) in NO_STATE:
                what = f"number {when} of {self.channel} is no generation but a `{kind}` entry"
                raise NightrankError("E_EMPTY", what, self.store.path(self._folder))
            return entry
        try:
            day = datetime.date.fromisoformat(when)
        except ValueError:
            what = f"expected the number of a generation or a day, found {when!r}"
            do = "give a number, or a day as 2026-01-31"
            raise NightrankError("E_USAGE", what, "", do) from None
        for entry in reversed(self.published()):
            if entry.body["time"][:10] <= day.isoformat():
                return entry
        what = f"nothing of {self.channel} was published by {day}"
        raise NightrankError("E_EMPTY", what, self.store.path(self._folder))

    def append(
        self,
        body: dict[str, Any],
        watermark: int | None,
        same: tuple[str, ...] = (),
        uses: Iterable[str] = (),
        onto: int | None = None,
        over_rollback: bool = False,
    ) -> Entry:
        """Takes the next number for an entry, unless a run that was planned later has published.

        Args:
            body: plain data; `format`, `time`, `watermark` and a unique `write_id` are added.
            watermark: the generation that was current when the writer planned its work. None: the
                entry's own number, which fences off everything that was planned before.
            same: keys of `body`. A current entry that agrees in all of them is this publication,
                made by a concurrent run of the same plan or before a crash, and is returned.
            uses: datasets that the entry depends on.
            onto: the generation that the entry was compared with, 0 for none.
            over_rollback: publish although a rollback is in force.

        Raises:
            Moved: the current generation is not `onto`.
            NightrankError: E_GATE where a rollback is in force; E_STALE where the current entry was
                planned after this one; E_CONDEMNED where a used dataset was condemned since;
                E_CONFLICT after 20 lost concurrent writes.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        body = {**body, "time": now, "write_id": uuid.uuid4().hex}
        used = tuple(uses)
        for _ in range(20):
            generations = self.generations()
            current, _ = self._newest(generations)
            if current and same and all(current.body.get(key) == body[key] for key in same):
                return current
            if not over_rollback and (rollback := self.in_force(generations)):
                raise held_back(rollback)
            generation = generations[-1] + 1 if generations else 1
            mark = generation if watermark is None else watermark
            if current and current.body["watermark"] > mark:
                what = (
                    f"generation {current.generation} was planned at {current.body['watermark']}, "
                    f"after this run (planned at {mark})"
                )
                do = "run the same command again, which makes a new plan"
                raise NightrankError("E_STALE", what, self.channel, do)
            self._refuse_condemned(used, onto or 0 if watermark is None else watermark)
            if onto is not None and onto != (current.generation if current else 0):
                raise Moved
            body["watermark"] = mark
            data = seal(body, readable=True)
            if self.store.put_if_absent(f"{self._folder}/{generation:020d}.json", data):
                return Entry(generation, body)
        what = "lost 20 concurrent writes of the next generation"
        do = "find the other publishers of this lake and run one at a time"
        raise NightrankError("E_CONFLICT", what, self.channel, do)

    def claim(self, number: int, body: dict[str, Any]) -> bool:
        """Takes exactly this number; for entries that were decided by the state below it.

        Returns:
            Whether the number was free.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        stamp = {"time": now, "watermark": number - 1, "write_id": uuid.uuid4().hex}
        data = seal({**body, **stamp})
        return self.store.put_if_absent(f"{self._folder}/{number:020d}.json", data)

    def condemned(self, since: int = 0) -> dict[str, int]:
        """Datasets condemned under a number above `since`, with that number."""
        entries = self._all([number for number in self.generations() if number > since])
        return {path: e.generation for e in entries for path in e.body.get("condemned", ())}

    def _refuse_condemned(self, used: tuple[str, ...], watermark: int) -> None:
        condemned = self.condemned(watermark) if used else {}
        for path in used:
            if path in condemned:
                what = f"{path} was condemned by `nightrank gc` (number {condemned[path]})"
                do = "run the same command again, which recomputes it"
                raise NightrankError("E_CONDEMNED", what, self.channel, do)
