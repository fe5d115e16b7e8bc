"""Fetches the rows of new and changed documents from the user's files.

In: an input split, the rows of it that the delta kept. Out: `rows`, in input order. Cardinality:
one shard per split that holds such rows. Knows nothing about: ids, duplicates, shards of documents.

The split is read a second time, since at the first nobody knew which rows would be needed: writing
all texts on every night would cost as much as the corpus is large.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.config import Corpus
from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.storage.dataset import Manifest, Payload, shard_names
from nightrank.storage.formats import read_split
from nightrank.storage.inputs import Split, changed
from nightrank.storage.parquet import Batches
from nightrank.storage.reader import Reader
from nightrank.storage.validation import accepted_schema, validate

VERSION = 2


def plan(splits: tuple[Split, ...], delta: Manifest) -> tuple[Task, ...]:
    """One task per split that holds kept rows."""
    tasks = []
    for number, name in enumerate(shard_names(len(splits))):
        kept = [(ref, part) for ref in delta.files("kept") if (part := ref.range(number))]
        if kept:
            tasks.append(Task(name, {"split": splits[number], "kept": kept}))
    return tuple(tasks)


class Worker:
    """Reads a split again and keeps what is new."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self._source = Corpus.model_validate(config["source"])
        self._options = config["options"]

    def __call__(self, task: Task, read: Reader) -> Payload:
        """A row that is no longer what the delta saw ends the run: the input changed."""
        parts = [read.range(ref, part) for ref, part in task.args["kept"]]
        kept = pa.concat_tables(parts).sort_by("row").combine_chunks()
        wanted, file = kept["row"].to_numpy(), task.args["split"].file
        stats = {"rate_rows": len(wanted), "fetched": 0}

        def rows() -> Iterator[pa.Table]:
            for batch in read_split(task.args["split"], "corpus", self._source, self._options):
                accepted, _ = validate(batch, "corpus", self._source)
                found = accepted.filter(pa.array(np.isin(accepted["row"].to_numpy(), wanted)))
                if not found.num_rows:
                    continue
                at = np.searchsorted(wanted, found["row"].to_numpy())
                hashes = kept["content_hash"].take(pa.array(at))
                if not pc.all(pc.equal(found["content_hash"], hashes)).as_py():
                    raise changed(file, "the texts read at first", "others")
                stats["fetched"] += found.num_rows
                yield found
            if stats["fetched"] != len(wanted):
                raise changed(file, f"{len(wanted)} new rows", str(stats["fetched"]))

        return Payload({"rows": Batches(accepted_schema("corpus", self._source), rows())}, stats)


def stage(
    dataset: str,
    source: Corpus,
    splits: tuple[Split, ...],
    options: dict[str, Any],
    delta: Manifest,
) -> Stage:
    """Assembles the stage."""
    config = {"source": source.model_dump(mode="json"), "options": options}
    return Stage(
        name="extract",
        version=VERSION,
        dataset=dataset,
        identity={"of": delta.path},
        tasks=plan(splits, delta),
        worker=WorkerSpec(Worker, config),
        schemas={"rows": accepted_schema("corpus", source)},
    )
