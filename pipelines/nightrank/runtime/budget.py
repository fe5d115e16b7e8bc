"""When a run has to end: a time of day, GPU hours, money. Asked before every unit."""

from __future__ import annotations

import time
from collections.abc import Callable

from nightrank.config.running import Budget
from nightrank.runtime.night import Night, starting


class Meter:
    """Counts from its creation on; `reason` is empty while there is time left.

    Args:
        budget: the limits.
        gpus: GPUs of the cluster at present.
        night: the night that a run belongs to, given `until` and when the run started in seconds
            since the epoch. Asked once, and not before there is work: a run that has nothing to do
            records no night. By default a night that begins with the run.
        before: seconds that earlier tries of the same budget took. Asked as late.
    """

    def __init__(
        self,
        budget: Budget,
        gpus: Callable[[], float],
        night: Callable[[str, float], Night] = starting,
        before: Callable[[], float] = float,
    ) -> None:
        self._budget, self._gpus = budget, gpus
        self._began, self._began_at = time.monotonic(), time.time()
        self._find_night, self._find_before = night, before
        self._night: Night | None = None
        self._before: float | None = None

    def deadline(self) -> float | None:
        """When the run has to end, in seconds since the epoch, as far as is known now.

        GPU hours and money are counted with the GPUs that there are now.
        """
        budget, gpus, limits = self._budget, self._gpus(), []
        if budget.until:
            limits.append(self._night_of_run(budget.until).deadline - self._began_at)
        if budget.gpu_hours is not None and gpus:
            limits.append(budget.gpu_hours / gpus * 3600 - self._spent_before())
        if budget.usd is not None and budget.usd_per_hour:
            limits.append(budget.usd / budget.usd_per_hour * 3600 - self._spent_before())
        return time.time() - self._running() + min(limits) if limits else None

    def reason(self) -> str:
        """The limit that is reached, with its value; empty while none is."""
        budget, running = self._budget, self._running()
        if budget.until:
            night = self._night_of_run(budget.until)
            # By the clock as it was at the start: one that is set meanwhile moves no deadline.
            if self._began_at + running >= night.deadline:
                return night.past()
        if budget.gpu_hours is not None or budget.usd is not None:
            hours = (running + self._spent_before()) / 3600
            if budget.gpu_hours is not None and self._gpus() * hours >= budget.gpu_hours:
                return f"budget.gpu_hours = {budget.gpu_hours:g} are used up"
            if budget.usd is not None and (budget.usd_per_hour or 0.0) * hours >= budget.usd:
                return f"budget.usd = {budget.usd:g} is spent"
        return ""

    def _running(self) -> float:
        return time.monotonic() - self._began

    def _night_of_run(self, until: str) -> Night:
        if self._night is None:
            self._night = self._find_night(until, self._began_at)
        return self._night

    def _spent_before(self) -> float:
        if self._before is None:
            self._before = self._find_before()
        return self._before
