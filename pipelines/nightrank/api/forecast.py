"""A forecast as a typed value: counts, bytes, memory, time, requests and money of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nightrank.forecast.changes import DocumentChanges, QueryChanges
from nightrank.forecast.incremental import IncrementalRun
from nightrank.forecast.limits import Memory
from nightrank.forecast.next_run import Pairs


@dataclass(frozen=True)
class Input:
    """The corpus or the queries.

    Attributes:
        rows: rows of the files.
        kept: documents or queries that count, without rejects and duplicates.
        distinct: different texts.
        bytes: of the files.
        files: how many there are.
    """

    rows: int
    kept: int
    distinct: int
    bytes: int
    files: int


@dataclass(frozen=True)
class StageForecast:
    """One stage.

    Attributes:
        units: units of work that are left.
        seconds: wall-clock time.
        core_seconds: of CPU cores.
        gpu_seconds: of GPUs in use.
        gpu_hours: of GPUs that the stage's workers reserve.
        bytes: that it writes.
    """

    units: int
    seconds: float
    core_seconds: float
    gpu_seconds: float
    gpu_hours: float
    bytes: int


@dataclass(frozen=True)
class Bottleneck:
    """The stage that takes longest.

    Attributes:
        stage: its name.
        seconds: wall-clock time.
        setting: the key of the config that makes it faster; empty if there is none.
        text: what it waits for.
    """

    stage: str
    seconds: float
    setting: str
    text: str


@dataclass(frozen=True)
class Recomputed:
    """What is computed again although the current generation has it.

    Attributes:
        what: the setting, model or version that differs.
        before: its value in the current generation, as JSON has it.
        now: its value in the next run, likewise.
        again: what is computed again for that.
    """

    what: str
    before: Any
    now: Any
    again: str


@dataclass(frozen=True)
class NextRun:
    """What the next run finds changed.

    Attributes:
        documents: changes of the corpus.
        queries: changes of the queries.
        counted: whether both inputs were read and compared; else changes are assumed.
        pairs: pairs to score, and those whose scores are known.
        recomputed: what is computed again.
        done: units that earlier attempts committed, by stage.
    """

    documents: DocumentChanges
    queries: QueryChanges
    counted: bool
    pairs: Pairs
    recomputed: tuple[Recomputed, ...]
    done: Mapping[str, int]


@dataclass(frozen=True)
class Forecast:
    """What a run takes.

    Attributes:
        name: of the experiment.
        device: the GPU that models run on, or `this machine`.
        whole: whether all of both inputs was read; else counts are estimated from a sample.
        seconds: wall-clock time.
        cpu_hours: CPUs of the cluster times hours.
        gpu_hours: GPUs that workers reserve times hours.
        bytes: that the run writes.
        lake_bytes: of the lake at its peak; None for the next run of an existing lake.
        pairs: (query, document) pairs of all rerank steps.
        documents: the corpus.
        queries: the queries.
        stages: by name, in order.
        memory: bytes that workers hold.
        requests: S3 requests, `put` and `get`.
        usd: money by what a price was given for, and `total`; empty without prices.
        bottleneck: the stage that takes longest; None if nothing is to be done.
        next_run: what the next run of an existing lake finds changed; None on an empty lake.
        incremental: what an incremental run takes when a share of the documents is replaced.
        warnings: what to know before it is started.
        note: whether the forecast was stored with the run.
        stored: likewise; the run is then compared with it.
        plain: the JSON that `nightrank plan --json` prints.
    """

    name: str
    device: str
    whole: bool
    seconds: float
    cpu_hours: float
    gpu_hours: float
    bytes: int
    lake_bytes: int | None
    pairs: int
    documents: Input
    queries: Input
    stages: Mapping[str, StageForecast]
    memory: Memory
    requests: Mapping[str, int]
    usd: Mapping[str, float]
    bottleneck: Bottleneck | None
    next_run: NextRun | None
    incremental: IncrementalRun
    warnings: tuple[str, ...]
    note: str
    stored: bool
    plain: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, name: str, plain: dict[str, Any]) -> Forecast:
        """From the JSON of a forecast."""
        return cls(
            name=name,
            device=plain["device"],
            whole=plain["whole"],
            seconds=plain["seconds"],
            cpu_hours=plain["cpu_hours"],
            gpu_hours=plain["gpu_hours"],
            bytes=plain["bytes"],
            lake_bytes=plain.get("lake_bytes"),
            pairs=plain["pairs"],
            documents=_input(plain["documents"]),
            queries=_input(plain["queries"]),
            stages={stage: StageForecast(**cost) for stage, cost in plain["stages"].items()},
            memory=Memory(**plain["memory"]),
            requests=plain["requests"],
            usd=plain["usd"],
            bottleneck=Bottleneck(**plain["bottleneck"]) if plain["bottleneck"] else None,
            next_run=_next_run(plain["next_run"]) if "next_run" in plain else None,
            incremental=IncrementalRun(**plain["night"]),
            warnings=tuple(plain["warnings"]),
            note=plain["note"],
            stored=plain["stored"],
            plain=plain,
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON that `nightrank plan --json` prints."""
        return dict(self.plain)

    def __repr__(self) -> str:
        """One line, for a notebook; `print` shows all of it."""
        work = f"seconds={self.seconds:g}, pairs={self.pairs}, bytes={self.bytes}"
        return f"Forecast(name={self.name!r}, {work}, warnings={len(self.warnings)})"

    def __str__(self) -> str:
        """A table of stages, and what the run needs: at most 60 lines."""
        from nightrank.api.forecast_table import table

        return "\n".join(table(self.to_dict(), self.name))


def _input(plain: Mapping[str, int]) -> Input:
    counts = {name: plain[name] for name in ("rows", "kept", "distinct", "files")}
    return Input(bytes=plain["size"], **counts)


def _next_run(plain: Mapping[str, Any]) -> NextRun:
    return NextRun(
        documents=DocumentChanges(**plain["documents"]),
        queries=QueryChanges(**plain["queries"]),
        counted=plain["counted"],
        pairs=Pairs(**plain["pairs"]),
        recomputed=tuple(Recomputed(**change) for change in plain["again"]),
        done=plain["done"],
    )
