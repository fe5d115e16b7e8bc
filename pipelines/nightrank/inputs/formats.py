"""Reads a split of an input file as raw batches, whatever its format.

Every reader projects the needed columns first, streams at most `BATCH_ROWS` rows at a time, limits
the decoded size of a file, and keeps exact row numbers for rejects.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from nightrank.config.schema import Source
from nightrank.errors import NightrankError
from nightrank.inputs.delimited import read_csv
from nightrank.inputs.jsonl import read_jsonl
from nightrank.inputs.parquet_rows import read_parquet
from nightrank.inputs.raw import BadFile, RawBatch, Rejects, Wanted, checked_batch, place
from nightrank.inputs.splits import Split, check_unchanged
from nightrank.inputs.tsv import read_tsv
from nightrank.storage.filesystem import StorageOptions

READERS = {
    "parquet": read_parquet,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "tsv": read_tsv,
}


def read_split(
    split: Split, kind: str, source: Source, options: StorageOptions | None = None
) -> Iterator[RawBatch]:
    """Reads the needed columns of a split.

    With `on_bad_file: reject` the split is read twice, first to check that it can be read to its
    end, so that a file that breaks off yields one reject and no rows. (Plan with `by_file=True`
    then: of a file in several splits only the broken split would be left out.)

    Args:
        split: the part of a file to read.
        kind: `corpus` or `queries`; decides the default column names.
        source: column names, attributes and policies.
        options: of the store.

    Yields:
        Batches in row order, some without a row. Rows and rejects together are the rows of the
        split; a blank JSONL or CSV line is no row. A bad file under `on_bad_file: reject` is one
        reject with row -1.

    Raises:
        NightrankError: E_SCHEMA for a file that cannot be read or does not have a column, and for a
            refused row under `on_bad_row: error`; E_INPUT_CHANGED; E_AUTH; E_STORE_RETRY.
    """
    check_unchanged(split.file, options)
    wanted = Wanted.of(kind, source)
    where = place(split)
    reader = READERS[split.file.format]
    try:
        if source.on_bad_file == "reject":
            for _ in reader(split, wanted, source, options):
                pass
        for batch in reader(split, wanted, source, options):
            if source.on_bad_row == "error" and batch.rejects.num_rows:
                raise bad_row(batch.rejects, where)
            yield batch
        check_unchanged(split.file, options)  # Else the rows may be of two versions.
    except BadFile as error:
        if source.on_bad_file == "error":
            what = f"{error.reason}: {error.detail}"
            raise NightrankError("E_SCHEMA", what, where, error.do) from None
        rejects = Rejects()
        rejects.add(-1, error.reason, error.detail)
        empty = {name: pa.array([], pa.string()) for name in wanted.names}
        batch = checked_batch(empty, np.empty(0, np.int64), rejects, where)
        yield replace(batch, present=frozenset())


def bad_row(rejects: pa.Table, where: str) -> NightrankError:
    """The error for the first of the rejected rows.

    Args:
        rejects: `rejects_schema()`, at least one row.
        where: the split.
    """
    first = rejects.sort_by("row").slice(0, 1).to_pylist()[0]
    what = f"bad row: {first['reason']}: {first['detail']}"
    do = "correct the row, or set on_bad_row: reject"
    return NightrankError("E_SCHEMA", what, f"{where}, row {first['row']}", do)
