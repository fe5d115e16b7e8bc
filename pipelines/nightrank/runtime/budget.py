"""When a run has to end: a time of day, GPU hours, money. Checked before every unit."""

from __future__ import annotations

import time
from collections.abc import Callable

from nightrank.config.running import Budget
from nightrank.runtime.deadline import Window, new_window


class Meter:
    """Measures a run against its budget, from the meter's creation on.

    Args:
        budget: the limits.
        gpus: returns the GPUs of the cluster at present.
        find_window: returns the window of the run, from `until` and the start of the run in seconds
            since the epoch. Called once, and not before there is work: a run that has nothing to do
            records no window. By default a window that begins with the run.
        find_failed: returns the seconds that failed runs of the same budget took. Called as late.
    """

    def __init__(
        self,
        budget: Budget,
        gpus: Callable[[], float],
        find_window: Callable[[str, float], Window] = new_window,
        find_failed: Callable[[], float] = float,
    ) -> None:
        self._budget, self._gpus = budget, gpus
        self._began, self._began_at = time.monotonic(), time.time()
        self._find_window, self._find_failed = find_window, find_failed
        self._window: Window | None = None
        self._failed: float | None = None

    def deadline(self) -> float | None:
        """When the run has to end, in seconds since the epoch, as far as is known now.

        GPU hours and money are counted with the GPUs that the cluster has now.
        """
        budget, gpus, limits = self._budget, self._gpus(), []
        if budget.until:
            limits.append(self._window_of_run(budget.until).deadline - self._began_at)
        if budget.gpu_hours is not None and gpus:
            limits.append(budget.gpu_hours / gpus * 3600 - self._failed_seconds())
        if budget.usd is not None and budget.usd_per_hour:
            limits.append(budget.usd / budget.usd_per_hour * 3600 - self._failed_seconds())
        return time.time() - self._elapsed() + min(limits) if limits else None

    def reason(self) -> str:
        """The limit that is reached, with its value; empty while there is time left."""
        budget, elapsed = self._budget, self._elapsed()
        if budget.until:
            window = self._window_of_run(budget.until)
            # By the clock as it was at the start: setting it during the run moves no deadline.
            if self._began_at + elapsed >= window.deadline:
                return window.expired()
        if budget.gpu_hours is not None or budget.usd is not None:
            hours = (elapsed + self._failed_seconds()) / 3600
            if budget.gpu_hours is not None and self._gpus() * hours >= budget.gpu_hours:
                return f"budget.gpu_hours = {budget.gpu_hours:g} are used up"
            if budget.usd is not None and (budget.usd_per_hour or 0.0) * hours >= budget.usd:
                return f"budget.usd = {budget.usd:g} is spent"
        return ""

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _window_of_run(self, until: str) -> Window:
        if self._window is None:
            self._window = self._find_window(until, self._began_at)
        return self._window

    def _failed_seconds(self) -> float:
        if self._failed is None:
            self._failed = self._find_failed()
        return self._failed
