"""`evaluate`: measures of a published generation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from nightrank.api.config import Config, load_config
from nightrank.api.execution import evaluate_generation, judgements_of, measures_of
from nightrank.api.process import progress_of
from nightrank.api.records import Measure
from nightrank.config.overrides import Overrides
from nightrank.evaluation.coverage import Coverage
from nightrank.generations.results import open_lake
from nightrank.storage.dataset import FileRef
from nightrank.storage.reader import Reader
from nightrank.storage.store import Store

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Evaluation:
    """What the judgements say of a generation, at the full depth of its lists.

    Attributes:
        generation: its number.
        measures: means by name, e.g. `nDCG@10`.
        judgements: shares of the judged documents and queries that exist here.
        report: path or url of the HTML report in the lake.
        summary: a table of the measures, as text.
        details: confidence intervals, what moved, and measures by vertical, as plain data.
    """

    generation: int
    measures: Mapping[str, Measure]
    judgements: tuple[Coverage, ...]
    report: str
    summary: str
    details: Mapping[str, Any] = field(repr=False)
    _store: Store = field(repr=False)
    _files: Mapping[str, FileRef] = field(repr=False)

    def html(self) -> bytes:
        """The report: one HTML file in UTF-8 that refers to nothing outside it.

        Raises:
            NightrankError: E_CORRUPT for a missing or altered file.
        """
        return bytes(Reader(self._store).buffer(self._files["report"]).to_pybytes())

    def per_query(self) -> pa.Table:
        """Every measure of every judged query: `query_id`, `measure`, `run`, `value` and others.

        Raises:
            NightrankError: E_CORRUPT for a missing or altered file.
        """
        return Reader(self._store).table(self._files["per_query"])

    def to_dict(self) -> dict[str, Any]:
        """The JSON line of `nightrank evaluate --json`."""
        return {
            "measures": {name: asdict(measure) for name, measure in self.measures.items()},
            "judgements": {shares.kind: shares.to_dict() for shares in self.judgements},
            **self.details,
        }

    def __str__(self) -> str:
        """The table of the measures."""
        return self.summary


def evaluate(
    config: Config,
    overrides: Overrides = (),
    *,
    generation: int | str | None = None,
    progress: bool | TextIO = False,
) -> Evaluation:
    """Measures a published generation by `evaluate.qrels`; neither input is read.

    Args:
        config: path of a YAML file, a mapping or a `PipelineConfig`.
        overrides: `["evaluate.measures=[RR@10]"]` or `{"evaluate.measures": ["RR@10"]}`.
        generation: a number, or a day as 2026-01-31; None takes the current generation.
        progress: True to print it, or the text stream that it is printed to.

    Returns:
        First stage, reranked and ceiling of every measure, and the report.

    Raises:
        NightrankError: E_CONFIG without judgements; E_EMPTY if nothing is published, or none of the
            queries is judged.
    """
    loaded = load_config(config, overrides)
    entry, manifest = evaluate_generation(loaded, generation, progress_of(progress))
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    shard = manifest.shards[0]
    return Evaluation(
        generation=entry.generation,
        measures=measures_of(manifest),
        judgements=judgements_of(manifest),
        report=store.path(shard.files["report"].key),
        summary=shard.stats["summary"],
        details=shard.stats["details"],
        _store=store,
        _files=shard.files,
    )
