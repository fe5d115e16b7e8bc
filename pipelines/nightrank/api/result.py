"""What a run published and what it took, as `run`, `nightly`, `rank` and `reindex` return it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from nightrank.api.records import Counts, CutInputs, Gate, Measure, PrecisionCheck, Work
from nightrank.errors import NightrankError
from nightrank.evaluation.coverage import Coverage

if TYPE_CHECKING:
    import pyarrow.dataset as pads


@dataclass(frozen=True)
class Lake:
    """Where an experiment's results are.

    Attributes:
        root: `root` of the config, a local folder or s3:// url.
        name: `name` of the config.
        storage_options: options of the store.
    """

    root: str
    name: str
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def table(self, name: str, generation: int | None) -> pads.Dataset:
        """A published table; see `nightrank.read_results`."""
        from nightrank.generations.results import read_results

        return read_results(self.root, self.name, name, generation, dict(self.storage_options))


@dataclass(frozen=True)
class Result:
    """A generation, and the run that returned it.

    Attributes:
        lake: where it is.
        generation: its number; None if the run stopped before `publish`.
        index_generation: number of the index that it was ranked with; None before there is one.
        published: whether this run published the generation (`reindex`: the index).
        stopped_after: the stage that the run was asked to stop after; empty for a whole run.
        work: what the run had to do.
        counts: rows of the generation; None without one.
        units: units of work that this run did, by stage.
        seconds: wall-clock seconds by stage, and `total`.
        files: Parquet files of the ranked table, paths or s3:// urls.
        measures: by name, e.g. `nDCG@10`; empty without judgements.
        judgements: shares of the judged documents and queries that exist here.
        report: path or url of the HTML report; empty without judgements.
        evaluation: dataset of the evaluation in the lake; empty without judgements.
        not_measured: why there are no measures although judgements were given; else empty.
        gate: the gate's verdict and its findings; None without a gate.
        unfinished: why a part of the depth was published (`budget.on_budget`); else empty.
        cut_short: the error that the command line ends with in that case.
        precision: by rerank step, how much its reduced precision changes the best 10.
        cut: inputs that were longer than their model takes, a record for each kind and model.
        forecast: what `plan` forecast of this run; None if it was not asked.
        actual: what the run took, beside the forecast.
    """

    lake: Lake
    generation: int | None
    index_generation: int | None
    published: bool
    work: Work
    stopped_after: str = ""
    counts: Counts | None = None
    units: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    measures: Mapping[str, Measure] = field(default_factory=dict)
    judgements: tuple[Coverage, ...] = ()
    report: str = ""
    evaluation: str = ""
    not_measured: str = ""
    gate: Gate | None = None
    unfinished: str = ""
    cut_short: NightrankError | None = None
    precision: Mapping[str, PrecisionCheck] = field(default_factory=dict)
    cut: tuple[CutInputs, ...] = ()
    forecast: Mapping[str, Any] | None = None
    actual: Mapping[str, Any] | None = None

    @property
    def already_published(self) -> bool:
        """Whether the generation was published and current before this run."""
        return self.generation is not None and not self.published

    @property
    def ranked(self) -> pads.Dataset:
        """The ranked rows as a pyarrow dataset; `.to_table()` reads them.

        Raises:
            NightrankError: E_EMPTY without a generation; as `nightrank.read_results`.
        """
        return self.table("ranked")

    @property
    def queries(self) -> pads.Dataset:
        """One row for each query, with its status, as a pyarrow dataset; see `ranked`."""
        return self.table("queries")

    def table(self, name: str) -> pads.Dataset:
        """A table of this generation: `ranked`, `queries`, `rejects` or `changes`; see `ranked`."""
        if self.generation is None:
            where = f"{self.lake.root}/{self.lake.name}"
            do = "run the whole pipeline, without `last` and not with `reindex`"
            raise NightrankError("E_EMPTY", "this run published no results", where, do)
        return self.lake.table(name, self.generation)

    def to_dict(self) -> dict[str, Any]:
        """The JSON line that the command line ends with, as plain data."""
        if self.generation is None and self.stopped_after:
            left_out = self.work.files_left_out
            stopped = {"generation": None, "stopped_after": self.stopped_after}
            return {**stopped, "files_left_out": left_out, "seconds": dict(self.seconds)}
        if self.generation is None or self.counts is None:
            plain = {"index_generation": self.index_generation, **asdict(self.work)}
            return {**plain, "seconds": dict(self.seconds), "published": self.published}
        plain = {
            "generation": self.generation,
            "index_generation": self.index_generation,
            "published": self.published,
            "already_published": self.already_published,
            "gate": self.gate.to_dict() if self.gate else None,
            "unfinished": self.unfinished,
            "precision": {step: asdict(check) for step, check in self.precision.items()},
            "cut": [inputs.to_dict() for inputs in self.cut],
            **asdict(self.work),
            **asdict(self.counts),
            "units": dict(self.units),
            "seconds": dict(self.seconds),
            "files": list(self.files),
        }
        if self.forecast and self.actual:
            plain |= {"forecast": self.forecast, "actual": self.actual}
        if self.measures:
            plain |= {
                "measures": {name: asdict(measure) for name, measure in self.measures.items()},
                "judgements": {one.kind: one.to_dict() for one in self.judgements},
                "evaluation": self.evaluation,
                "report": self.report,
            }
        return plain | ({"not_measured": self.not_measured} if self.not_measured else {})

    def __repr__(self) -> str:
        """One line, for a notebook; `print` shows all of it."""
        if self.generation is None:
            about = f"index_generation={self.index_generation}"
            if self.stopped_after:
                about = f"stopped_after={self.stopped_after!r}"
            return f"Result({about})"
        rows = self.counts.rows["ranked"] if self.counts else 0
        parts = [f"generation={self.generation}", f"ranked_rows={rows}"]
        parts += [
            f"{name}={measure.first_stage:.4f}->{measure.reranked:.4f}"
            for name, measure in self.measures.items()
        ]
        return f"Result({', '.join(parts)})"

    def __str__(self) -> str:
        """Counts, measures and files, a line each."""
        from nightrank.api.summary import lines

        return "\n".join(lines(self))
