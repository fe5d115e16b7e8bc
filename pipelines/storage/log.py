"""Numbered logs: the only place where something becomes visible to readers.

`<channel>/_log/<20 digits>.json`, created if absent; the highest number is current. The number is
the fencing token: a stale writer finds its number taken, re-reads, and sees why it may not publish.
No lock, no lease, no clock.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import orjson

from pipelines.errors import NightrankError
from pipelines.storage.store import Store

FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """One published state: its generation (from 1) and what the writer said of it."""

    generation: int
    body: dict[str, Any]


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
                E_CONFIG for one of a newer format.
        """
        key = f"{self._folder}/{generation:020d}.json"
        try:
            body = orjson.loads(self.store.read(key))
        except FileNotFoundError:
            what = f"generation {generation} of {self.channel} does not exist"
            raise NightrankError("E_EMPTY", what, self.store.path(self._folder)) from None
        except orjson.JSONDecodeError:
            what, do = "log entry is not valid JSON", "restore the file from a backup"
            raise NightrankError("E_CORRUPT", what, self.store.path(key), do) from None
        if body.get("format", 0) > FORMAT:
            do = "use a newer nightrank"
            raise NightrankError("E_CONFIG", "written by a newer version", self.store.path(key), do)
        return Entry(generation, body)

    def current(self) -> Entry | None:
        """The newest entry, or None where nothing was published."""
        generations = self.generations()
        return self.read(generations[-1]) if generations else None

    def append(self, body: dict[str, Any], watermark: int, same: tuple[str, ...] = ()) -> Entry:
        """Publishes: takes the next number, unless something newer was planned and published.

        Args:
            body: plain data; `format`, `watermark` and a unique `write_id` are added.
            watermark: the generation that was current when the writer planned its work.
            same: a current entry that agrees with `body` in all of these keys is this very
                publication, made by a twin or before a crash; it is returned as it stands.

        Raises:
            NightrankError: E_STALE where the current entry was planned after this one;
                E_CONFLICT after 20 lost races.
        """
        body = {**body, "format": FORMAT, "watermark": watermark, "write_id": uuid.uuid4().hex}
        data = orjson.dumps(body, option=orjson.OPT_INDENT_2)
        for _ in range(20):
            current = self.current()
            if current and same and all(current.body.get(key) == body[key] for key in same):
                return current
            if current and current.body["watermark"] > watermark:
                what = (
                    f"generation {current.generation} was planned at {current.body['watermark']}, "
                    f"after this run (planned at {watermark})"
                )
                do = "run the same command again to plan anew"
                raise NightrankError("E_STALE", what, self.channel, do)
            generation = current.generation + 1 if current else 1
            if self.store.put_if_absent(f"{self._folder}/{generation:020d}.json", data):
                return Entry(generation, body)
        do = "find out who else publishes here"
        raise NightrankError("E_CONFLICT", "lost 20 races for a generation", self.channel, do)
