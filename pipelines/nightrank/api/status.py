"""How far an experiment is: what is published, what is unfinished, what its runs lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nightrank.api.config import Config, load_config
from nightrank.config.overrides import Overrides
from nightrank.generations.results import open_lake
from nightrank.runtime.events import BEGINNINGS, ENDINGS, LOSSES, events_of
from nightrank.storage.dataset import Dataset
from nightrank.storage.log import Entry, Log, held_back
from nightrank.storage.store import Store

# The verb to run next by the exit code of a plan's last run; for any other code the same verb.
NEXT = {3: "doctor", 7: "verify"}
OF_UNIT = ("stage", "unit", "node", "seconds")


@dataclass(frozen=True)
class Runs:
    """The runs of one plan, by their events.

    Attributes:
        count: how many there were.
        slowest: the slowest unit: `stage`, `unit`, `node` and `seconds`; empty without one.
        lost: retries and losses, counted by event.
        nodes: names of the nodes that they happened on.
        ended: the event that ended the last run; empty if it runs or was killed.
        verb: of the last run.
        time: of the last event, ISO 8601.
    """

    count: int
    slowest: Mapping[str, Any]
    lost: Mapping[str, int]
    nodes: tuple[str, ...]
    ended: Mapping[str, Any]
    verb: str
    time: str


@dataclass(frozen=True)
class StageProgress:
    """Units of a stage that are committed, and whether those are all."""

    done: int
    complete: bool


@dataclass(frozen=True)
class UnfinishedRun:
    """A plan without a published generation.

    Attributes:
        run: its folder in the lake.
        stages: what each of its datasets has.
        runs: its runs so far.
    """

    run: str
    stages: Mapping[str, StageProgress]
    runs: Runs

    @property
    def is_ready(self) -> bool:
        """Whether everything is computed and only publication is missing."""
        return any(
            name.startswith("changes-") and stage.complete for name, stage in self.stages.items()
        )


@dataclass(frozen=True)
class Status:
    """What is published and unfinished.

    Attributes:
        url: of the lake.
        generation: the current generation; None before the first.
        index_generation: the newest index; None before the first.
        counts: documents, queries and rows of the generation; empty without one.
        runs: runs of the plan that published it; None without one.
        unfinished: plans that are not published, the one that ran last at the end.
        rollback: of the rollback in force, `generation`, `reason` and others; None without one.
        held_back: the same as a line; empty without one.
        next_verb: the verb to run next.
        forecast: what `plan` forecast of the generation's run; None if it was not asked.
        actual: what that run took.
    """

    url: str
    generation: int | None
    index_generation: int | None
    counts: Mapping[str, Any]
    runs: Runs | None
    unfinished: tuple[UnfinishedRun, ...]
    rollback: Mapping[str, Any] | None
    held_back: str
    next_verb: str
    forecast: Mapping[str, Any] | None
    actual: Mapping[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `nightrank status --json`, without the next command."""
        plain = {
            "generation": self.generation,
            "index_generation": self.index_generation,
            "runs": asdict(self.runs) if self.runs else None,
            "unfinished": [asdict(run) for run in self.unfinished],
            "rollback": self.rollback,
        }
        times = {"forecast": self.forecast, "actual": self.actual}
        return plain | {name: value for name, value in times.items() if value is not None}


def status(config: Config, overrides: Overrides = ()) -> Status:
    """Reads the lake; needs no Ray and no input.

    Args:
        config: path of a YAML file, a mapping or a `PipelineConfig`.
        overrides: `["root=s3://bucket/lakes"]` or `{"root": "s3://bucket/lakes"}`.

    Raises:
        NightrankError: E_CONFIG for the config; E_CORRUPT for a damaged log.
    """
    loaded = load_config(config, overrides)
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    log = Log(store, "results")
    current, rollback, index = log.current(), log.in_force(), Log(store, "index").current()
    body = current.body if current else {}
    held = held_back(rollback) if rollback else None
    runs = _runs(store, body["folder"]) if current else None
    unfinished = _unfinished(store, log)
    return Status(
        url=store.url,
        generation=current.generation if current else None,
        index_generation=index.generation if index else None,
        counts=body.get("counts", {}),
        runs=runs,
        unfinished=unfinished,
        rollback=held.details["rollback"] if held else None,
        held_back=held.what if held else "",
        next_verb=_next_verb(current, runs, unfinished, held is not None),
        forecast=body.get("forecast"),
        actual=body.get("actual"),
    )


def _next_verb(
    current: Entry | None,
    runs: Runs | None,
    unfinished: tuple[UnfinishedRun, ...],
    rolled_back: bool,
) -> str:
    """What brings the experiment forward, by the run whose event is the latest."""
    if rolled_back:
        return "resume"
    if unfinished:
        last = unfinished[-1].runs
        return NEXT.get(last.ended.get("exit", 0), last.verb)
    if current is None or runs is None:
        return "run"
    # A part of the depth was published: the same verb scores the rest.
    return runs.verb if current.body["unfinished"] else "results"


def _unfinished(store: Store, log: Log) -> tuple[UnfinishedRun, ...]:
    """Plans without a log entry."""
    published = {entry.body["folder"] for entry in log.published()}
    unfinished = []
    for name in store.folders("results"):
        folder = f"results/{name}"
        if name == "_log" or folder in published or "plan.json" not in store.files(folder):
            continue
        stages = {
            dataset: StageProgress(
                len(store.files(f"{folder}/{dataset}/_done")),
                Dataset(store, f"{folder}/{dataset}").manifest() is not None,
            )
            for dataset in store.folders(folder)
        }
        unfinished.append(UnfinishedRun(folder, stages, _runs(store, folder)))
    return tuple(sorted(unfinished, key=lambda run: run.runs.time))


def _runs(store: Store, folder: str) -> Runs:
    """The events of all runs of a plan, summarised."""
    runs = events_of(store, folder)
    events = [event for run in runs for event in run]
    units = [event for event in events if event["event"] == "slowest_unit"]
    slowest = max(units, key=lambda event: event["seconds"], default={})
    lost = {name: sum(event["event"] == name for event in events) for name in LOSSES}
    nodes = {event.get("node", "") for event in events if event["event"] in LOSSES} - {""}
    last = runs[-1] if runs else []
    ends = [event for event in last if event["event"] in ENDINGS]
    verbs = [event.get("verb", "run") for event in last if event["event"] in BEGINNINGS]
    return Runs(
        count=len(runs),
        slowest={name: slowest[name] for name in OF_UNIT if name in slowest},
        lost={name: count for name, count in lost.items() if count},
        nodes=tuple(sorted(nodes)),
        ended=ends[-1] if ends else {},
        verb=verbs[0] if verbs else "run",
        time=last[-1]["time"] if last else "",
    )
