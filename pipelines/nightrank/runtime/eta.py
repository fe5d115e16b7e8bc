"""When a run will end: the pace of the current stage, plus the expected time of later stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

# What a forecast calls the start of worker processes, which comes before the first stage.
START = "start"


class EtaEstimator:
    """Follows stages and units as they complete and estimates when the run ends.

    Args:
        expected: seconds by stage, of a forecast or of the previous run. A stage that is not named
            counts only while it runs, so without any the estimate is the end of the current stage.
        deadline: returns when the run has to end, in seconds since the epoch, or None.
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
        self._stage, self._left, self._done, self._began = "", 0, 0, 0.0

    def expect(self, names: Sequence[str]) -> None:
        """Names the stages to come, in order; expected seconds of other stages are left out."""
        self._names = list(names)
        self._later = {n: s for n, s in self._expected.items() if n in self._names or n == START}

    def begin(self, stage: str, units: int) -> None:
        """A stage begins that has this many units to do."""
        self._pass(stage)
        self._stage, self._left, self._done, self._began = stage, units, 0, time.monotonic()

    def advance(self) -> None:
        """One unit of the stage is done."""
        self._left, self._done = self._left - 1, self._done + 1

    def end(self, stage: str) -> None:
        """A stage is complete, in this run or an earlier one."""
        self._pass(stage)
        if stage == self._stage:
            self._left = 0

    def _pass(self, stage: str) -> None:
        """Drops the expected seconds of this stage and of all before it."""
        # Stages that were complete before the run may not be reported one by one.
        before = self._names[: self._names.index(stage)] if stage in self._names else []
        for name in (START, *before, stage):
            self._later.pop(name, None)

    def stage_left(self) -> float:
        """Seconds until the current stage is complete."""
        spent = time.monotonic() - self._began
        if self._done:
            return spent / self._done * self._left
        return max(0.0, self._expected.get(self._stage, 0.0) - spent) if self._left else 0.0

    def run_left(self) -> float | None:
        """Seconds until the run ends; None without expected seconds of its stages."""
        return self.stage_left() + sum(self._later.values()) if self._expected else None

    def finish(self) -> float:
        """When the run ends, in seconds since the epoch."""
        return time.time() + self.stage_left() + sum(self._later.values())

    def warning(self) -> str:
        """A line for the operator where the run will end after its deadline; else empty."""
        finish, deadline = self.finish(), self.deadline()
        if deadline is None or not self._done or finish <= deadline:
            return ""
        ends, until = (time.strftime("%H:%M", time.localtime(at)) for at in (finish, deadline))
        late = (finish - deadline) / 60
        return f"at this pace the run ends at {ends}, {late:.0f} min after its limit at {until}"
