"""Progress of a run: a live bar on a terminal, one plain line per stage elsewhere.

Each shows the stage's number, the time that the run has taken, and, where a forecast or an earlier
run gives the seconds of its stages, when it will end. The run's events have the same for machines.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from nightrank.errors import NightrankError
from nightrank.runtime.eta import EtaEstimator
from nightrank.runtime.events import emit
from nightrank.storage.dataset import Manifest, Record

PLAIN_EVERY_SECONDS = 15.0
# The first units of a stage do not show its pace.
SETTLED_SECONDS = 60.0


class Progress:
    """Progress of one run, on stderr so that stdout stays for results.

    Attributes:
        seconds: wall seconds by stage, and of the start of the executor (`ray_start`), for the
            run's last line.
        units: units done in this run, by stage; fewer in a resumed run.
        before: units of these stages that were done before this run.
        bytes: of data files of all complete stages.
        eta: estimates when the run will end.
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self.seconds: dict[str, float] = {}
        self.units: dict[str, int] = {}
        self.before = self.bytes = 0
        self.eta = EtaEstimator()
        self._warned = False
        self._stream, self._quiet = stream or sys.stderr, quiet
        self._bar: RichProgress | None = None
        self._bar_task: Any = None
        self._console = Console(file=self._stream)
        self._stage, self._total, self._done, self._rows = "", 0, 0, 0
        self._began = self._shown = 0.0
        self._slowest: Record | None = None
        self._run_began = time.monotonic()
        self._names: list[str] = []
        self._place = 0

    def expect(self, names: Sequence[str]) -> None:
        """Names the stages of the run, in order, as far as they are known at its start."""
        self._names, self._place = list(names), 0
        self.eta.expect(names)

    @contextlib.contextmanager
    def starting(self, what: str) -> Iterator[None]:
        """The executor starts, within this block; its seconds belong to no stage."""
        began = time.monotonic()
        live = self._stream.isatty() and not self._quiet
        with self._console.status(f"starting {what}") if live else contextlib.nullcontext():
            yield
        seconds = time.monotonic() - began
        key = f"{what.lower()}_start"
        self.seconds[key] = round(self.seconds.get(key, 0.0) + seconds, 2)
        self.note(f"starting {what}  {seconds:.1f} s")

    def start(self, stage: str, total: int, done: int) -> None:
        """A stage begins, `done` of its `total` units already committed."""
        self._stage, self._total, self._done, self._rows = stage, total, done, 0
        self._began = self._shown = time.monotonic()
        self.units.setdefault(stage, 0)
        self.before += done
        self._slowest = None
        self.eta.begin(stage, total - done)
        self._reach(stage)
        emit("stage_started", stage=stage, units=total, done=done)
        if self._quiet:
            return
        if self._stream.isatty():
            self._bar = RichProgress(
                TextColumn("{task.description:<20}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                _Live(self._whole),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            described = self._numbered(stage)
            self._bar_task = self._bar.add_task(described, total=total, completed=done, rate="")
        elif done:
            text = f"{stage}: resuming, {done} of {total} units were done"
            self._line(self._numbered(text))

    def advance(self, record: Record) -> None:
        """One unit is committed."""
        self._done += 1
        self.eta.advance()
        if self._slowest is None or record.seconds > self._slowest.seconds:
            self._slowest = record
        self.units[self._stage] += 1
        self._rows += int(record.stats.get("rate_rows", 0))
        now = time.monotonic()
        unit = str(record.stats.get("rate_unit", "rows"))
        rate = f"{self._rows / max(now - self._began, 1e-9):,.0f} {unit}/s" if self._rows else ""
        if self._bar:
            self._bar.update(self._bar_task, completed=self._done, rate=rate)
        elif not self._quiet and now - self._shown > PLAIN_EVERY_SECONDS:
            self._shown = now
            text = f"{self._stage}: {self._done}/{self._total} units {rate}"
            self._line(f"{self._numbered(text)}  {self._whole()}")
        settled = not self._warned and now - self._began > SETTLED_SECONDS
        if settled and (warning := self.eta.warning()):
            self._warned = True
            self.note(warning)

    def finish(self, stage: str, manifest: Manifest, seconds: float) -> None:
        """The stage's dataset is complete."""
        self._stop_bar()
        self.eta.end(stage)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + round(seconds, 2)
        self.bytes += manifest.bytes
        count = len(manifest.shards)
        emit("stage_finished", stage=stage, seconds=seconds, units=count, bytes=manifest.bytes)
        self._emit_slowest(stage)
        if not self._quiet:
            rate = f", {self._rows / max(seconds, 1e-9):,.0f}/s" if self._rows else ""
            units = f"{count} unit" + "s" * (count != 1)
            size = _size(manifest.bytes)
            text = f"{stage:<20} done  {units:>10}  {size:>9}  {seconds:7.1f} s{rate}"
            self._line(f"{self._numbered(text)}  ({self._whole()})")

    def skipped(self, stage: str, manifest: Manifest) -> None:
        """The stage's dataset was complete before this run."""
        self.eta.end(stage)
        self._reach(stage)
        self.seconds.setdefault(stage, 0.0)
        self.units.setdefault(stage, 0)
        self.before += len(manifest.shards)
        self.bytes += manifest.bytes
        emit("stage_reused", stage=stage, units=len(manifest.shards), bytes=manifest.bytes)
        if not self._quiet:
            self._line(self._numbered(f"{stage:<20} reused {len(manifest.shards):>4} units"))

    def unit_failed(self, stage: str, unit: str, error: NightrankError) -> None:
        """A unit failed its last attempt; the others continue."""
        emit("unit_failed", stage=stage, unit=unit, error=error)

    def failed(self, stage: str) -> None:
        """The stage did not complete."""
        self._stop_bar()
        seconds = time.monotonic() - self._began
        emit("stage_failed", stage=stage, units=self._total, done=self._done, seconds=seconds)
        self._emit_slowest(stage)

    def note(self, text: str) -> None:
        """Prints a line for the operator."""
        if not self._quiet:
            self._line(text)

    def _reach(self, stage: str) -> None:
        """Sets the current stage; an unexpected one adds to the number of stages."""
        if stage in self._names:
            # A stage that runs again, for another tokenizer, is no step back.
            self._place = max(self._place, self._names.index(stage) + 1)
        elif self._names:
            self._names.insert(self._place, stage)
            self._place += 1

    def _numbered(self, text: str) -> str:
        """The text with the stage's number before it, where the run's stages are known."""
        if not self._names:
            return text
        width = len(str(len(self._names)))
        return f"stage {self._place:>{width}} of {len(self._names)}  {text}"

    def _whole(self) -> str:
        """Time since the run's start, time left of the stage, and of the run."""
        parts = [f"{_clock(time.monotonic() - self._run_began)} elapsed"]
        left, whole = self.eta.stage_left(), self.eta.run_left()
        if left:
            parts.append(f"stage {_clock(left)} left")
        if whole is not None:
            parts.append(f"ETA {_clock(whole)}")
        return ", ".join(parts)

    def _emit_slowest(self, stage: str) -> None:
        """Records the slowest unit among those of this run."""
        if unit := self._slowest:
            emit(
                "slowest_unit",
                stage=stage,
                unit=unit.shard,
                node=unit.node,
                seconds=unit.seconds,
            )

    def _line(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def _stop_bar(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None


class _Live(ProgressColumn):
    """A text that is computed at every refresh of the bar."""

    def __init__(self, text: Callable[[], str]) -> None:
        super().__init__()
        self._text = text

    def render(self, task: Task) -> Text:
        """See `ProgressColumn.render`."""
        return Text(self._text())


def _clock(seconds: float) -> str:
    """`M:SS`, or `H:MM:SS` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return ""
