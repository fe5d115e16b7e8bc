"""The night that `budget.until` ends: recorded with the plan, so that retries have one deadline.

`<folder>/night-<n>.json` has the start of the night, its `until`, and the deadline as an absolute
time. The first run of a plan that has work creates it; later runs read it, on any machine and in
any time zone. After the deadline they end at once. A night is over halfway between its deadline and
24 hours after its start: the next run of the same plan then begins the next night, so a schedule
may start a little earlier or later. Another `until` is another deadline, counted from the first run
that has it.
"""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass

from nightrank.runtime.events import ENDINGS, events_of
from nightrank.storage.sealed import seal, unseal
from nightrank.storage.store import Store

DAY = 86_400.0
# The clock of the machine that began a night may be ahead of this one's by this much.
CLOCKS_DIFFER = 3600.0
_DO = "move the file away: the night then begins with the next run"


@dataclass(frozen=True)
class Night:
    """One night; instants in seconds since the epoch.

    Attributes:
        until: `HH:MM`, as configured.
        began: when its first run started.
        deadline: when it has to end: the first `until` after it began.
    """

    until: str
    began: float
    deadline: float

    @property
    def over(self) -> float:
        """From this time on the same command belongs to the next night."""
        return (self.deadline + self.began + DAY) / 2

    def past(self) -> str:
        """The reason to end a run after the deadline."""
        over = clock(self.over)
        return f"budget.until = {self.until} has passed (the next night begins at {over})"

    def holds(self, until: str, instant: float) -> bool:
        """Whether a run that starts then with this `until` belongs to it."""
        return self.until == until and self.began - CLOCKS_DIFFER <= instant < self.over


def next_reached(until: str, began: float) -> float:
    """When the local clock first shows `HH:MM` after an instant, both in seconds since the epoch.

    By the calendar, not by 24 hours: a day on which clocks change is an hour shorter or longer.
    """
    local = datetime.datetime.fromtimestamp(began)
    hour, minute = map(int, until.split(":"))
    end = local.replace(hour=hour, minute=minute, second=0, microsecond=0, fold=0)
    if end.timestamp() <= began:
        end += datetime.timedelta(days=1)
    return end.timestamp()


def starting(until: str, began: float) -> Night:
    """A night that begins at an instant."""
    return Night(until, began, next_reached(until, began))


def night_of(store: Store, folder: str, until: str, began: float) -> Night:
    """The night that a run of a plan belongs to; created with the plan where it is the first.

    Args:
        store: the lake.
        folder: where the plan's own files lie, `Plan.own_folder`.
        until: `budget.until`.
        began: when the run started, or its schedule for this night did, in seconds since the
            epoch. A retry that is given the latter belongs to the night though its plan is another.

    Raises:
        NightrankError: E_CORRUPT where a recorded night is damaged.
    """
    while True:
        found, number = recorded(store, folder)
        if found and found.holds(until, began):
            return found
        night = starting(until, began)
        if store.put_if_absent(_key(folder, number + 1), _sealed(night)):
            return night


def too_late(store: Store, folder: str, until: str | None, now: float) -> str:
    """Why a run of a plan that starts now would end at once; empty where it would not.

    Args:
        store: the lake.
        folder: where the plan's own files lie.
        until: `budget.until`.
        now: seconds since the epoch.
    """
    found = recorded(store, folder)[0] if until else None
    if not until or not found or not found.holds(until, now) or now < found.deadline:
        return ""
    return found.past()


def spent_before(store: Store, folder: str, run: str, now: float) -> float:
    """Seconds that earlier tries of a plan took, by their events in the lake.

    Those of the last 24 hours that failed or were killed, back to the last run that ended normally:
    a retry shares the GPU hours and the money of the night, while the run after one that used them
    up has the full budget again.

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
        if lines[-1]["event"] in set(ENDINGS) - {"run_failed"} or first < now - DAY:
            break
        total += last - first
    return total


def recorded(store: Store, folder: str) -> tuple[Night | None, int]:
    """The last night of a plan and its number; None and 0 before the first."""
    names = [name for name in store.files(folder) if name.startswith("night-")]
    if not names:
        return None, 0
    number = max(int(name.removeprefix("night-").removesuffix(".json")) for name in names)
    key = _key(folder, number)
    plain = unseal(store.read(key), store.path(key), _DO)
    began, deadline = (_seconds(plain[name]) for name in ("began", "deadline"))
    return Night(plain["until"], began, deadline), number


def clock(instant: float) -> str:
    """An instant as people read it, on this machine's clock."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(instant))


def _key(folder: str, number: int) -> str:
    return f"{folder}/night-{number:04d}.json"


def _sealed(night: Night) -> bytes:
    instants = {"began": _text(night.began), "deadline": _text(night.deadline)}
    return seal({"until": night.until, **instants}, readable=True)


def _text(instant: float) -> str:
    return datetime.datetime.fromtimestamp(instant, datetime.UTC).isoformat()


def _seconds(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()
