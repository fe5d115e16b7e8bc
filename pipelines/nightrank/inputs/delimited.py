"""CSV; quoted fields may hold line feeds.

Columns are read as bytes, so that a row that is not UTF-8 does not fail its block: it is a reject,
as is a row with too few or too many fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv

from nightrank.config.schema import Source
from nightrank.inputs.bytestream import END, Decoded, NotUtf8, TextMode, open_decoded
from nightrank.inputs.header import column_places
from nightrank.inputs.raw import (
    BATCH_ROWS,
    BadFile,
    RawBatch,
    Rejects,
    Wanted,
    blank_to_null,
    checked_batch,
    place,
)
from nightrank.inputs.splits import Split
from nightrank.storage.filesystem import StorageOptions

# A record must fit into one block: a text at its limit, all of it doubled quotes, a title as long,
# and other columns.
MIN_BLOCK, MAX_BLOCK = 8 << 20, 1 << 30
# The reject detail that marks the appended last record.
LAST = END.decode().rstrip("\n")


def read_csv(
    split: Split, wanted: Wanted, source: Source, options: StorageOptions | None
) -> Iterator[RawBatch]:
    """Reads a whole CSV file.

    Row numbers count records after a header; blank lines are no records. An
    empty field is an empty string, and for attributes of other types null.

    Raises:
        BadFile: a column is missing or occurs twice, or the stream is broken.
    """
    block = min(MAX_BLOCK, max(MIN_BLOCK, 5 * source.max_text_bytes))
    first = _first_record(split, block, options)
    places = column_places(first, wanted, source)
    if first is None:
        return
    columns = source.header or first
    names = {ours: columns[at] for ours, at in places.items()}
    start = 0
    try:
        for batch, next_row in _batches(split, names, source, block, options, "utf8", 0):
            start = next_row
            yield batch
    except NotUtf8:
        # Arrow fails on a row with a wrong number of fields that is not UTF-8: such a file is read
        # again with one character per byte, from the first row that was not yielded.
        for batch, _ in _batches(split, names, source, block, options, "latin1", start):
            yield batch


def _batches(
    split: Split,
    names: dict[str, str],
    source: Source,
    block: int,
    options: StorageOptions | None,
    text: TextMode,
    start: int,
) -> Iterator[tuple[RawBatch, int]]:
    """Batches of the rows from `start` on, each with the number of the next row."""
    bad: list[tuple[int, str]] = []  # Row number and detail, in order.
    latin = text == "latin1"
    in_file = {ours: _as_latin(name) if latin else name for ours, name in names.items()}
    with open_decoded(split.file, options, text) as stream:
        needed = sorted(set(in_file.values()))
        convert = pcsv.ConvertOptions(
            include_columns=needed, column_types={name: pa.binary() for name in needed}
        )
        header = [_as_latin(name) if latin else name for name in source.header]
        reader = _open(stream, block, bad, convert, header)
        next_row = 0
        for batch in reader:
            for at in range(0, batch.num_rows, BATCH_ROWS):
                part = batch.slice(at, BATCH_ROWS)
                skipped = np.array([row for row, _ in bad], dtype=np.int64)
                span = np.arange(next_row, next_row + part.num_rows + len(skipped))
                rows = np.setdiff1d(span, skipped, assume_unique=True)[: part.num_rows]
                next_row = int(rows[-1]) + 1
                rejects = _take(bad, start, next_row)
                fresh = pa.array(rows >= start)
                columns = {ours: part.column(name).filter(fresh) for ours, name in in_file.items()}
                if latin:
                    columns = {name: _as_bytes(column) for name, column in columns.items()}
                for name, declared in source.typed.items():
                    if declared != "string":
                        columns[name] = blank_to_null(columns[name])
                rows = rows[rows >= start]
                yield checked_batch(columns, rows, rejects, place(split)), next_row
        if not bad or bad.pop()[1] != LAST:
            detail = "a quoted field is never closed: it would contain all rows after it"
            raise BadFile("unreadable_file", detail)
        if bad:
            empty = {name: pa.array([], pa.string()) for name in names}
            next_row = bad[-1][0] + 1
            rejects = _take(bad, start, next_row)
            none = np.empty(0, dtype=np.int64)
            yield checked_batch(empty, none, rejects, place(split)), next_row
        stream.raw.check_digest()


def _as_latin(name: str) -> str:
    return name.encode().decode("latin-1")


def _as_bytes(column: pa.Array) -> pa.Array:
    """The original bytes of a `latin1` stream's characters; only for files that are not UTF-8."""
    values = column.to_pylist()
    return pa.array([v if v is None else v.decode().encode("latin-1") for v in values], pa.binary())


def _take(bad: list[tuple[int, str]], start: int, stop: int) -> Rejects:
    """Removes the bad rows below `stop`; those from `start` on become rejects."""
    rejects = Rejects()
    count = sum(row < stop for row, _ in bad)
    for row, detail in bad[:count]:
        if row >= start:
            rejects.add(row, "bad_row", detail)
    del bad[:count]
    return rejects


def _open(
    stream: Decoded,
    block: int,
    bad: list[tuple[int, str]],
    convert: pcsv.ConvertOptions,
    header: list[str],
) -> pcsv.CSVStreamingReader:
    """Opens a reader that adds rows with a wrong number of fields to `bad`, also `LAST`."""

    def skip(row: Any) -> str:
        # Arrow numbers records from 1, a header included.
        detail = f"expected {row.expected_columns} fields, found {row.actual_columns}"
        detail = LAST if row.text == LAST else detail
        bad.append((row.number - (1 if header else 2), detail))
        return "skip"

    return pcsv.open_csv(
        pa.PythonFile(stream, mode="r"),
        read_options=pcsv.ReadOptions(
            use_threads=False, block_size=block, column_names=header or None
        ),
        parse_options=pcsv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
        convert_options=convert,
    )


def _first_record(split: Split, block: int, options: StorageOptions | None) -> list[str] | None:
    """The fields of the file's first record; None for a file without one.

    Raises:
        BadFile: they are not UTF-8.
    """
    with open_decoded(split.file, options, "latin1") as stream:
        if not stream.read(2):
            return None
    with open_decoded(split.file, options, "latin1") as stream:
        reader = _open(stream, block, [], pcsv.ConvertOptions(), [])
        names = [name.encode("latin-1") for name in reader.schema.names]
    try:
        fields = [name.decode() for name in names]
    except UnicodeDecodeError:
        raise BadFile("unreadable_file", "the first line is not UTF-8") from None
    return None if fields == [LAST] else fields  # A byte order mark and nothing else.
