"""Fetches the rows of new and changed documents from the user's files.

In: a bundle of input splits, the rows of it that the delta kept. Out: `rows`, in input order.
Cardinality: one shard per bundle that holds such rows. Knows nothing about: ids, duplicates, shards
of documents.

A split that holds such rows is read a second time, since at the first it is unknown which rows will
be needed: writing all texts in every run would cost as much as the corpus is large.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.config.schema import Corpus
from nightrank.inputs.bundles import Bundle, bundled
from nightrank.inputs.formats import read_split
from nightrank.inputs.splits import Split, changed
from nightrank.inputs.validation import accepted_schema, validate
from nightrank.runtime.identity import outside_identity
from nightrank.runtime.stage import Declaration, Task
from nightrank.storage.dataset import FileRef, Manifest, Payload, shard_names
from nightrank.storage.parquet import Batches
from nightrank.storage.ranges import Range
from nightrank.storage.reader import Reader


@dataclass(frozen=True)
class Inputs:
    """What is read again: the splits, their ingest, the rows that the delta kept."""

    ingested: Manifest
    delta: Manifest
    source: Corpus = outside_identity()
    splits: tuple[Split, ...] = outside_identity()
    options: dict[str, Any] = outside_identity()


@dataclass(frozen=True)
class Settings:
    """The section of the config and storage options."""

    source: Corpus
    options: dict[str, Any]


@dataclass(frozen=True)
class Args:
    """One bundle, the lines of each of its splits, and ranges of rows that are kept."""

    bundle: Bundle
    lines: list[int]
    kept: list[tuple[FileRef, Range]]


def tasks(inputs: Inputs) -> list[Task[Args]]:
    """One task per bundle that holds kept rows."""
    bundles = bundled(inputs.splits)
    units = []
    for number, name in enumerate(shard_names(len(bundles))):
        kept = [(ref, part) for ref in inputs.delta.files("kept") if (part := ref.range(number))]
        if kept:
            lines = inputs.ingested.shards[number].stats["lines"]
            units.append(Task(name, Args(bundles[number], lines, kept)))
    return units


class Worker:
    """Reads splits again and keeps what is new."""

    def __init__(self, settings: Settings, threads: int) -> None:
        self._source, self._options = settings.source, settings.options

    def __call__(self, task: Task[Args], read: Reader) -> Payload:
        """A row that is no longer what the delta saw ends the run: the input changed."""
        parts = [read.range(ref, part) for ref, part in task.args.kept]
        kept = pa.concat_tables(parts).sort_by("row").combine_chunks()
        stats = {"rate_rows": kept.num_rows, "fetched": 0}

        def rows() -> Iterator[pa.Table]:
            before = 0
            for split, lines in zip(task.args.bundle, task.args.lines, strict=True):
                for selected in self._rows(split, kept, before, before + lines):
                    stats["fetched"] += selected.num_rows
                    yield selected
                before += lines

        return Payload({"rows": Batches(accepted_schema("corpus", self._source), rows())}, stats)

    def _rows(self, split: Split, kept: pa.Table, start: int, stop: int) -> Iterator[pa.Table]:
        """Kept rows of a split, whose rows are those from start to stop - 1 of its bundle."""
        low, high = np.searchsorted(kept["row"].to_numpy(), [start, stop])
        kept = kept.slice(low, high - low)
        if not kept.num_rows:
            return
        wanted, fetched = kept["row"].to_numpy(), 0
        for batch in read_split(split, "corpus", self._source, self._options):
            accepted, _ = validate(batch, "corpus", self._source)
            numbers = pc.add(accepted["row"], start)
            accepted = accepted.set_column(accepted.schema.get_field_index("row"), "row", numbers)
            selected = accepted.filter(pa.array(np.isin(numbers.to_numpy(), wanted)))
            if not selected.num_rows:
                continue
            at = np.searchsorted(wanted, selected["row"].to_numpy())
            hashes = kept["content_hash"].take(pa.array(at))
            if not pc.all(pc.equal(selected["content_hash"], hashes)).as_py():
                raise changed(split.file, "the texts read at first", "others")
            fetched += selected.num_rows
            yield selected
        if fetched != len(wanted):
            raise changed(split.file, f"{len(wanted)} new rows", str(fetched))


STAGE = Declaration(
    name="extract",
    version=3,
    pool="general",
    scales_with="input rows",
    tasks=tasks,
    worker=Worker,
    settings=lambda inputs: Settings(inputs.source, inputs.options),
    schemas=lambda inputs: {"rows": accepted_schema("corpus", inputs.source)},
)
