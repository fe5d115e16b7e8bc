"""The units that wait, by affinity, so that a worker's next unit is found without a search.

A stage may have 50,000 units: searching them for every unit that is handed out took most of the
driver's time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class UnitQueue(Generic[T]):
    """Units ordered by affinity, then in the order they were added."""

    def __init__(self, units: Iterable[T], affinity: Callable[[T], str]) -> None:
        self._affinity = affinity
        self._waiting: dict[str, deque[T]] = {}
        for unit in sorted(units, key=affinity):
            self.append(unit)

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def append(self, unit: T) -> None:
        """Adds a unit as the last of its affinity."""
        self._waiting.setdefault(self._affinity(unit), deque()).append(unit)

    def appendleft(self, unit: T) -> None:
        """Adds a unit as the first of its affinity."""
        self._waiting.setdefault(self._affinity(unit), deque()).appendleft(unit)

    def take(self, own: str, held: Collection[str]) -> T:
        """The next unit of a worker's affinity; else of one that no worker holds; else the first.

        Args:
            own: affinity of the worker's last unit.
            held: affinities of all workers that are running.
        """
        affinity = own
        if own not in self._waiting:
            free = (name for name in self._waiting if name not in held)
            affinity = next(free, next(iter(self._waiting)))
        units = self._waiting[affinity]
        unit = units.popleft()
        if not units:
            del self._waiting[affinity]
        return unit

    def clear(self) -> None:
        """Drops all units."""
        self._waiting.clear()
