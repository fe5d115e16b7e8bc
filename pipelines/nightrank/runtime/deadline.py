"""The deadline that `budget.until` sets: recorded with the plan, so that retries share it.

`<folder>/window-<n>.json` holds the start of a run window, its `until`, and its deadline as an
absolute time. The first run of a plan that has work creates it; later runs read it, on any machine
and in any time zone, and end at once after the deadline. The next window begins halfway between the
deadline and 24 hours after the start, so a schedule may start a little earlier or later from one
day to the next. Another `until` is another window, counted from the first run that has it.
"""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass

from nightrank.runtime.events import ENDINGS, events_of
from nightrank.storage.sealed import seal, unseal
from nightrank.storage.store import Store

DAY_SECONDS = 86_400.0
# The clock of the machine that opened a window may be ahead of this one's by this much.
CLOCK_SKEW_SECONDS = 3600.0
_DO = "move the file away: the next run then opens a new window"


@dataclass(frozen=True)
class Window:
    """The time that a run and its retries share; instants in seconds since the epoch.

    Attributes:
        until: `HH:MM`, as configured.
        began: when its first run started.
        deadline: when its runs have to end: the first `until` after `began`.
    """

    until: str
    began: float
    deadline: float

    @property
    def next_begins(self) -> float:
        """From this time on the same command opens the next window."""
        return (self.deadline + self.began + DAY_SECONDS) / 2

    def expired(self) -> str:
        """The reason to end a run after the deadline."""
        begins = local_time(self.next_begins)
        return (
            f"budget.until = {self.until} has passed (runs from {begins} on get the next deadline)"
        )

    def covers(self, until: str, instant: float) -> bool:
        """Whether a run that starts at this instant with this `until` belongs to the window."""
        return self.until == until and self.began - CLOCK_SKEW_SECONDS <= instant < self.next_begins


def next_time(until: str, began: float) -> float:
    """When the local clock first shows `HH:MM` after an instant, both in seconds since the epoch.

    By the calendar, not by 24 hours: a day on which clocks change is an hour shorter or longer.
    """
    local = datetime.datetime.fromtimestamp(began)
    hour, minute = map(int, until.split(":"))
    end = local.replace(hour=hour, minute=minute, second=0, microsecond=0, fold=0)
    if end.timestamp() <= began:
        end += datetime.timedelta(days=1)
    return end.timestamp()


def new_window(until: str, began: float) -> Window:
    """A window that begins at an instant."""
    return Window(until, began, next_time(until, began))


def window_of(store: Store, folder: str, until: str, began: float) -> Window:
    """The window that a run of a plan belongs to; recorded with the plan by its first run.

    Args:
        store: the lake.
        folder: where the plan's own files lie, `Plan.own_folder`.
        until: `budget.until`.
        began: when the run started, or the time it was scheduled for, in seconds since the epoch.
            A retry that passes the scheduled time keeps the deadline although its plan is another.

    Raises:
        NightrankError: E_CORRUPT where a recorded window is damaged.
    """
    while True:
        last, number = last_window(store, folder)
        if last and last.covers(until, began):
            return last
        window = new_window(until, began)
        if store.put_if_absent(_key(folder, number + 1), _sealed(window)):
            return window


def why_expired(store: Store, folder: str, until: str | None, now: float) -> str:
    """Why a run of a plan that starts now would end at once; empty where it would not.

    Args:
        store: the lake.
        folder: where the plan's own files lie.
        until: `budget.until`.
        now: seconds since the epoch.
    """
    last = last_window(store, folder)[0] if until else None
    if not until or not last or not last.covers(until, now) or now < last.deadline:
        return ""
    return last.expired()


def failed_seconds(store: Store, folder: str, run: str, now: float) -> float:
    """Seconds that earlier runs of a plan took without success, by their events in the lake.

    Counts runs of the last 24 hours that failed or were killed, back to the last run that ended
    normally: a retry shares the GPU hours and the money of the run it repeats, while the run after
    one that reached its limit has the full budget again.

    Args:
        store: the lake.
        folder: where the plan's own files lie.
        run: this run's own name, which does not count.
        now: seconds since the epoch.
    """
    total = 0.0
    for lines in reversed(events_of(store, folder)):
        if lines[0]["run"] == run:
            continue
        first, last = (_seconds(line["time"]) for line in (lines[0], lines[-1]))
        if lines[-1]["event"] in set(ENDINGS) - {"run_failed"} or first < now - DAY_SECONDS:
            break
        total += last - first
    return total


def last_window(store: Store, folder: str) -> tuple[Window | None, int]:
    """The latest window of a plan and its number; None and 0 before the first.

    Raises:
        NightrankError: E_CORRUPT where its record is damaged.
    """
    names = [name for name in store.files(folder) if name.startswith("window-")]
    if not names:
        return None, 0
    number = max(int(name.removeprefix("window-").removesuffix(".json")) for name in names)
    key = _key(folder, number)
    plain = unseal(store.read(key), store.path(key), _DO)
    began, deadline = (_seconds(plain[name]) for name in ("began", "deadline"))
    return Window(plain["until"], began, deadline), number


def local_time(instant: float) -> str:
    """An instant, in seconds since the epoch, as `YYYY-MM-DD HH:MM` of this machine's clock."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(instant))


def _key(folder: str, number: int) -> str:
    return f"{folder}/window-{number:04d}.json"


def _sealed(window: Window) -> bytes:
    instants = {"began": _iso(window.began), "deadline": _iso(window.deadline)}
    return seal({"until": window.until, **instants}, readable=True)


def _iso(instant: float) -> str:
    return datetime.datetime.fromtimestamp(instant, datetime.UTC).isoformat()


def _seconds(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()
