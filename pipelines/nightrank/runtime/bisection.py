"""Finds the inputs of a unit that kill the process they are put into, by halves.

A worker that dies tells nothing. So parts of the unit are tried, each in a process that may die
for it: n inputs with one that kills are found out in at most log2(n) + 1 deaths.
"""

from __future__ import annotations

# With more of them it is hardly the inputs' fault, and every one costs log2(n) processes.
MOST_ASIDE = 8


class Bisection:
    """The search through one unit: `part` is to be tried next, then `survived` or `died` is called.

    Attributes:
        aside: positions of inputs that kill, found so far.
        part: the inputs (start, stop) to try next; None once the whole unit is, without `aside`.
        hopeless: why the search has found nothing to go by; empty while it may.
    """

    def __init__(self) -> None:
        self.aside: tuple[int, ...] = ()
        self.part: tuple[int, int] | None = (0, 0)
        self.hopeless = ""
        self._count = 0
        # Inputs before `low` are harmless; one of those from `low` to before `high` kills.
        self._low = self._high = 0

    def survived(self, count: int) -> None:
        """The part was done; `count` inputs are in the whole unit."""
        if self.part == (0, 0):
            self._count = self._high = count
            if not count:
                self.hopeless = "it dies without any input"
            self._halve()
        elif self._high - self._low == 1:
            self.hopeless = "it lives with every one of its inputs alone"
        elif self.part:
            self._low = self.part[1]
            self._halve()

    def died(self) -> None:
        """The process died over the part, or over the unit without `aside`."""
        if self.part == (0, 0):
            self.hopeless = "it dies before its first input"
        elif self.part is None:
            self._low, self._high = self.aside[-1] + 1, self._count
            if len(self.aside) == MOST_ASIDE:
                self.hopeless = f"it dies of more than {MOST_ASIDE} inputs"
            elif self._low == self._high:
                self.hopeless = "it dies of all its inputs together"
            self._halve()
        elif self.part[1] - self.part[0] == 1:
            self.aside, self.part = (*self.aside, self.part[0]), None
        else:
            self._high = self.part[1]
            self._halve()

    def _halve(self) -> None:
        """A single input is tried alone too: the blame may lie with the load of the others."""
        middle = self._low + max(1, (self._high - self._low) // 2)
        self.part = (self._low, middle)
