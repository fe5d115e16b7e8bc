"""When a run will end: by its present stage's pace, and by what is expected of the later ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

# What a forecast calls the start of processes, which comes before the first stage.
START = "start"


class Outlook:
    """Follows stages and units as they come; knows the end as soon as the first unit is done.

    Args:
        expected: seconds by stage, of a forecast or of the night before. A stage that it does not
            name is counted only while it runs, so without any this is the end of the stage.
        deadline: says when the run has to end, in seconds since the epoch; None where it need not.
    """

    def __init__(
        self,
        expected: dict[str, float] | None = None,
        deadline: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.deadline = deadline
        self._expected = dict(expected or {})
        self._later = dict(self._expected)
        self._names: list[str] = []
        self._stage, self._left, self._fresh, self._began = "", 0, 0, 0.0

    def expect(self, names: Sequence[str]) -> None:
        """Names the stages to come, in order; seconds of any other are left out."""
        self._names = list(names)
        self._later = {n: s for n, s in self._expected.items() if n in self._names or n == START}

    def begin(self, stage: str, units: int) -> None:
        """A stage begins that has so many units to do."""
        self._pass(stage)
        self._stage, self._left, self._fresh, self._began = stage, units, 0, time.monotonic()

    def advance(self) -> None:
        """One of them is done."""
        self._left, self._fresh = self._left - 1, self._fresh + 1

    def end(self, stage: str) -> None:
        """A stage is complete, or was so before."""
        self._pass(stage)
        if stage == self._stage:
            self._left = 0

    def _pass(self, stage: str) -> None:
        """Neither this stage is to come nor any before it: some are silently complete."""
        before = self._names[: self._names.index(stage)] if stage in self._names else []
        for name in (START, *before, stage):
            self._later.pop(name, None)

    def stage_left(self) -> float:
        """Seconds until the present stage is complete."""
        spent = time.monotonic() - self._began
        if self._fresh:
            return spent / self._fresh * self._left
        return max(0.0, self._expected.get(self._stage, 0.0) - spent) if self._left else 0.0

    def whole_left(self) -> float | None:
        """Seconds until the run ends; None where nothing was expected of its stages."""
        return self.stage_left() + sum(self._later.values()) if self._expected else None

    def finish(self) -> float:
        """When the run ends, in seconds since the epoch."""
        return time.time() + self.stage_left() + sum(self._later.values())

    def warning(self) -> str:
        """What an operator should know while there is time to do something; mostly nothing."""
        finish, deadline = self.finish(), self.deadline()
        if deadline is None or not self._fresh or finish <= deadline:
            return ""
        ends, until = (time.strftime("%H:%M", time.localtime(at)) for at in (finish, deadline))
        late = (finish - deadline) / 60
        return f"at this pace the run ends at {ends}, {late:.0f} min after its limit at {until}"
