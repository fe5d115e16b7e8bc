"""When a run has to end: a time of day, GPU hours, money. Asked before every unit."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable

from nightrank.config_running import Budget


class Meter:
    """Counts from its making on; `reason` is empty while there is time left."""

    def __init__(self, budget: Budget, gpus: Callable[[], float]) -> None:
        self._budget, self._gpus = budget, gpus
        self._began = time.monotonic()
        self._ends = _seconds_until(budget.until) if budget.until else None

    def deadline(self) -> float | None:
        """When the run has to end, in seconds since the epoch, as far as that can be told now.

        GPU hours and money are told for the GPUs that there are now.
        """
        budget, gpus = self._budget, self._gpus()
        limits = [self._ends]
        if budget.gpu_hours is not None and gpus:
            limits.append(budget.gpu_hours / gpus * 3600)
        if budget.usd is not None and budget.usd_per_hour:
            limits.append(budget.usd / budget.usd_per_hour * 3600)
        known = [limit for limit in limits if limit is not None]
        return time.time() - (time.monotonic() - self._began) + min(known) if known else None

    def reason(self) -> str:
        """The limit that is reached, with its value; empty while none is."""
        budget, spent = self._budget, time.monotonic() - self._began
        if self._ends is not None and spent >= self._ends:
            return f"it is past budget.until = {budget.until}"
        hours = spent / 3600
        if budget.gpu_hours is not None and self._gpus() * hours >= budget.gpu_hours:
            return f"budget.gpu_hours = {budget.gpu_hours:g} are used up"
        if budget.usd is not None and (budget.usd_per_hour or 0.0) * hours >= budget.usd:
            return f"budget.usd = {budget.usd:g} is spent"
        return ""


def _seconds_until(clock: str) -> float:
    """Seconds from now to the next time the local clock shows HH:MM."""
    now = datetime.datetime.now()
    hour, minute = map(int, clock.split(":"))
    end = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    if end <= now:
        end += datetime.timedelta(days=1)
    return (end - now).total_seconds()
