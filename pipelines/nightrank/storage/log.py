"""Numbered logs: the only place where something becomes visible to readers.

`<channel>/_log/<20 digits>.json`, created if absent; the highest number is current. The number is
the fencing token: a stale writer finds its number taken, re-reads, and sees why it may not publish.
No lock, no lease, no clock.

An entry's `kind` is `publish`, `rollback` (an older state again, under a new number), `condemn`
(datasets that garbage collection is about to delete) or `resume` (ends the rollback that is in
force). A condemned dataset can no longer be published, since the condemnation took the number that
its publisher would have taken. For the same reason nothing is published over a rollback: whoever
publishes decides by the very entries below the number that it takes.
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

# Kinds that take a number and publish no state.
NO_STATE = ("condemn", "resume")


@dataclass(frozen=True)
class Entry:
    """One published state: its generation (from 1) and what the writer said of it."""

    generation: int
    body: dict[str, Any]


class Moved(Exception):
    """Another generation is current than the one that an entry was compared with."""


def held_back(rollback: Entry) -> NightrankError:
    """E_GATE: what was rolled back, when and why, and what ends it."""
    body = rollback.body
    source = body.get("rolled_back_from")  # Entries of earlier versions do not say.
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
        """The highest number taken, 0 where there is none: what a plan is fenced by."""
        return max(self.generations(), default=0)

    def current(self) -> Entry | None:
        """The newest published state, or None where there is none."""
        return self._newest(self.generations())[0]

    def in_force(self, generations: list[int] | None = None) -> Entry | None:
        """The rollback over which nothing is published; None where there is none.

        Args:
            generations: the numbers to decide by, all by default.
        """
        entry, resumed = self._newest(self.generations() if generations is None else generations)
        is_rollback = entry is not None and entry.body.get("kind") == "rollback"
        return entry if is_rollback and not resumed else None

    def _newest(self, generations: list[int]) -> tuple[Entry | None, bool]:
        """The newest published state, and whether a `resume` came after it."""
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
        """Entries read side by side: a year of nights is some 400 of them."""
        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(self.read, numbers))

    def as_of(self, wanted: str) -> Entry:
        """The state of a generation's number, or the last one published by the end of a day (UTC).

        Raises:
            NightrankError: E_USAGE for neither a number nor a date, E_EMPTY for an unknown one.
        """
        if wanted.isdecimal():
            entry = self.read(int(wanted))
            if (kind := entry.body.get("kind")) in NO_STATE:
                what = f"number {wanted} of {self.channel} is no generation but a `{kind}` entry"
                raise NightrankError("E_EMPTY", what, self.store.path(self._folder))
            return entry
        try:
            day = datetime.date.fromisoformat(wanted)
        except ValueError:
            do = "give a number, or a day as 2026-01-31"
            raise NightrankError("E_USAGE", f"no generation {wanted!r}", "", do) from None
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
        """Publishes: takes the next number, unless something newer was planned and published.

        Args:
            body: plain data; `format`, `time`, `watermark` and a unique `write_id` are added.
            watermark: the generation that was current when the writer planned its work. None: the
                entry's own number, which fences off everything that was planned before.
            same: a current entry that agrees with `body` in all of these keys is this very
                publication, made by a twin or before a crash; it is returned as it stands.
            uses: datasets that the entry depends on.
            onto: the generation (0 for none) that the entry tells the difference to.
            over_rollback: whether it is published though a rollback is in force.

        Raises:
            Moved: another generation than `onto` is current by now.
            NightrankError: E_GATE where a rollback is in force; E_STALE where the current entry was
                planned after this one; E_CONDEMNED where what it uses was given up since;
                E_CONFLICT after 20 lost races.
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
                do = "run the same command again to plan anew"
                raise NightrankError("E_STALE", what, self.channel, do)
            self._refuse_condemned(used, onto or 0 if watermark is None else watermark)
            if onto is not None and onto != (current.generation if current else 0):
                raise Moved
            body["watermark"] = mark
            data = seal(body, readable=True)
            if self.store.put_if_absent(f"{self._folder}/{generation:020d}.json", data):
                return Entry(generation, body)
        do = "find out who else publishes here"
        raise NightrankError("E_CONFLICT", "lost 20 races for a generation", self.channel, do)

    def claim(self, number: int, body: dict[str, Any]) -> bool:
        """Takes exactly this number, as long as nobody has; for what was decided by what stood."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        added = {"time": now, "watermark": number - 1, "write_id": uuid.uuid4().hex}
        data = seal({**body, **added})
        return self.store.put_if_absent(f"{self._folder}/{number:020d}.json", data)

    def condemned(self, since: int = 0) -> dict[str, int]:
        """Datasets given up under a number above `since`, with that number."""
        entries = self._all([number for number in self.generations() if number > since])
        return {path: e.generation for e in entries for path in e.body.get("condemned", ())}

    def _refuse_condemned(self, used: tuple[str, ...], watermark: int) -> None:
        given_up = self.condemned(watermark) if used else {}
        for path in used:
            if path in given_up:
                what = f"{path} was given up by `nightrank gc` (number {given_up[path]})"
                do = "run the same command again to make it anew"
                raise NightrankError("E_CONDEMNED", what, self.channel, do)
