"""Finds the inputs of a unit that kill their worker process, by bisection.

A worker that dies reports nothing. So parts of the unit are tried, each in a process that may die
from it: among n inputs, one that kills is found in at most log2(n) + 1 deaths.
"""

from __future__ import annotations

# With more of them the inputs are hardly the cause, and each costs log2(n) processes.
MAX_ASIDE = 8


class Bisection:
    """The search through one unit: try `part`, then call `survived` or `died`.

    Attributes:
        aside: positions of inputs that kill, in the order they were found.
        part: the inputs (start, stop) to try next; None once the whole unit without `aside` is.
        gave_up: why the search ended without a result; empty while it goes on.
    """

    def __init__(self) -> None:
        self.aside: tuple[int, ...] = ()
        self.part: tuple[int, int] | None = (0, 0)
        self.gave_up = ""
        self._count = 0
        # Inputs before `low` are harmless; one of those from `low` to before `high` kills.
        self._low = self._high = 0

    def survived(self, count: int) -> None:
        """The part was done.

        Args:
            count: inputs of the whole unit.
        """
        if self.part == (0, 0):
            self._count = self._high = count
            if not count:
                self.gave_up = "it dies without any input"
            self._halve()
        elif self._high - self._low == 1:
            self.gave_up = "it survives each of its inputs alone"
        elif self.part:
            self._low = self.part[1]
            self._halve()

    def died(self) -> None:
        """The process died from the part, or from the whole unit without `aside`."""
        if self.part == (0, 0):
            self.gave_up = "it dies before its first input"
        elif self.part is None:
            self._low, self._high = self.aside[-1] + 1, self._count
            if len(self.aside) == MAX_ASIDE:
                self.gave_up = f"it dies from more than {MAX_ASIDE} inputs"
            elif self._low == self._high:
                self.gave_up = "it dies from all its inputs together"
            self._halve()
        elif self.part[1] - self.part[0] == 1:
            self.aside, self.part = (*self.aside, self.part[0]), None
        else:
            self._high = self.part[1]
            self._halve()

    def _halve(self) -> None:
        """A single input is tried alone too: the load of the others may be the cause."""
        middle = self._low + max(1, (self._high - self._low) // 2)
        self.part = (self._low, middle)
