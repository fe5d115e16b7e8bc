"""The units that wait, by affinity: what a worker gets next is found without a look at all others.

A stage may have 50,000 units: a search through them for every unit that is handed out took most of
the driver's time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class UnitQueue(Generic[T]):
    """Units in the order of their affinity, then in the order they came."""

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
        """Last of its affinity."""
        self._waiting.setdefault(self._affinity(unit), deque()).append(unit)

    def appendleft(self, unit: T) -> None:
        """First of its affinity."""
        self._waiting.setdefault(self._affinity(unit), deque()).appendleft(unit)

    def take(self, own: str, held: Collection[str]) -> T:
        """The next unit of a worker's own affinity; else of one that nobody holds; else the first.

        Args:
            own: what the worker has open.
            held: what all workers have.
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
