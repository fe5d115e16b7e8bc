"""Metrics of a run for Prometheus, through the agents of Ray's nodes.

Ray puts `ray_` before a name and `_total` after a counter: `nightrank_rows` is scraped as
`ray_nightrank_rows_total`. Workers count what they commit, the driver counts what waits. Agents get
new values every ten seconds, so the last ones of a short-lived process may be missing: these are
for watching, exact counts are in the records. A unit costs 20 microseconds here.
"""

from __future__ import annotations

# Before Ray itself: it sets the environment that Ray reads at import.
import nightrank.runtime.ray_cluster  # noqa: F401
from nightrank.models.text.batching import SPENT
from nightrank.storage.dataset import Record

# isort: split
from ray.util.metrics import Counter, Gauge, Histogram

SECONDS = [1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0]
# Counters that sum some of a record's counts; a stage without these counts adds nothing.
SUMS = {
    "nightrank_tokens": ("Tokens read by units.", ("tokens",)),
    "nightrank_rejects": ("Rows, texts and pairs rejected.", ("rejected", "nonfinite")),
}


class WorkerMetrics:
    """Counts of one worker process."""

    def __init__(self) -> None:
        def counter(name: str, description: str, *tags: str) -> Counter:
            return Counter(name, description, tag_keys=("stage", *tags))

        self._units = counter("nightrank_units", "Units committed.")
        self._rows = counter("nightrank_rows", "Rows, pairs, texts or queries done.", "unit")
        self._bytes = counter("nightrank_bytes", "Bytes of data files committed.")
        self._loads = counter("nightrank_worker_loads", "Models or indexes loaded, not kept.")
        self._pairs = counter("nightrank_pairs", "Pairs scored, or read from the store.", "source")
        self._model = counter("nightrank_model_tokens", "Tokens put through models.", "kind")
        self._seconds = Histogram(
            "nightrank_unit_seconds", "Seconds per unit.", SECONDS, tag_keys=("stage",)
        )
        self._sums = {name: (counter(name, text), keys) for name, (text, keys) in SUMS.items()}
        self._before = {"loads": 0, "text": 0, "padding": 0}

    def count(self, stage: str, record: Record, loads: int) -> None:
        """One more unit of a stage is committed.

        Args:
            stage: its name.
            record: of the unit.
            loads: how often this process has made a worker so far.
        """
        tags, stats = {"stage": stage}, record.stats
        self._units.inc(1, tags)
        self._seconds.observe(record.seconds, tags)
        _add(self._bytes, sum(file.size for file in record.files.values()), tags)
        unit = str(stats.get("rate_unit", "rows"))
        _add(self._rows, stats.get("rate_rows", 0), {**tags, "unit": unit})
        for counter, keys in self._sums.values():
            _add(counter, sum(int(stats.get(key, 0)) for key in keys), tags)
        scored = stats.get("pairs_scored", 0)
        for source, pairs in (("model", scored), ("store", stats.get("pairs", scored) - scored)):
            _add(self._pairs, pairs, {**tags, "source": source})
        _add(self._loads, self._since("loads", loads), tags)
        for kind, total in (("text", SPENT.tokens), ("padding", SPENT.padding)):
            _add(self._model, self._since(kind, total), {**tags, "kind": kind})

    def _since(self, name: str, total: int) -> int:
        """By how much a process-wide total has grown since the last call."""
        growth, self._before[name] = total - self._before[name], total
        return growth


class RunMetrics:
    """The driver's metrics of the current stage."""

    def __init__(self) -> None:
        def gauge(name: str, description: str, tag: str = "stage") -> Gauge:
            return Gauge(name, description, tag_keys=(tag,))

        self._waiting = gauge("nightrank_units_waiting", "Units not yet given to a worker.")
        self._running = gauge("nightrank_units_running", "Units that workers are running.")
        # Gauges, not counters: a counter whose first value is 1 never shows an increase.
        self._retried = gauge("nightrank_units_retried", "Units tried again in this stage.")
        self._failed = gauge(
            "nightrank_units_failed", "Units that failed their last attempt in this stage."
        )
        self._workers = gauge("nightrank_workers", "Worker processes by pool.", "pool")
        self._finish = Gauge("nightrank_predicted_finish_seconds", "When the run will end.")
        self._deadline = Gauge("nightrank_deadline_seconds", "When the run has to end.")
        self._tags: dict[str, str] = {}
        self._counts = {"retried": 0, "failed": 0}

    def report_eta(self, finish: float, deadline: float | None) -> None:
        """Sets when the run will end and when it has to, in seconds since the epoch."""
        self._finish.set(finish)
        if deadline is not None:
            self._deadline.set(deadline)

    def start(self, stage: str, pools: dict[str, int]) -> None:
        """A stage begins on pools of these sizes."""
        self._tags = {"stage": stage}
        self._counts = {"retried": 0, "failed": 0}
        self._retried.set(0, self._tags)
        self._failed.set(0, self._tags)
        for pool, workers in pools.items():
            self._workers.set(workers, {"pool": pool})

    def queue(self, waiting: int, running: int) -> None:
        """Sets how many units wait and how many run."""
        self._waiting.set(waiting, self._tags)
        self._running.set(running, self._tags)

    def retried(self) -> None:
        """A unit goes back into the queue."""
        self._counts["retried"] += 1
        self._retried.set(self._counts["retried"], self._tags)

    def failed(self) -> None:
        """A unit failed its last attempt."""
        self._counts["failed"] += 1
        self._failed.set(self._counts["failed"], self._tags)


def _add(counter: Counter, value: int | float, tags: dict[str, str]) -> None:
    if value > 0:  # Ray raises for 0.
        counter.inc(value, tags)
