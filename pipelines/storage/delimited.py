"""CSV and TSV with a header; quoted fields may hold line feeds.

Columns are read as bytes, so that a row that is not UTF-8 does not cost its block, and a row with
too few or too many fields is one reject.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv

from pipelines.config import Source
from pipelines.storage.bytestream import open_decoded
from pipelines.storage.inputs import Split
from pipelines.storage.raw import (
    BATCH_ROWS,
    BadFile,
    RawBatch,
    Rejects,
    Wanted,
    blank_to_null,
    checked_batch,
    place,
)

# A record must fit one block: room for a text at its limit with every character a doubled quote,
# a title as long, and other columns.
MIN_BLOCK, MAX_BLOCK = 8 << 20, 1 << 30


def read_delimited(
    split: Split, wanted: Wanted, source: Source, options: dict[str, Any] | None
) -> Iterator[RawBatch]:
    """Reads a whole CSV or TSV file.

    Row numbers count records after the header; blank lines are no records. An empty field is an
    empty string, and for attributes of other types null.

    Raises:
        BadFile: a column is missing or there twice, or the stream is broken.
    """
    block = min(MAX_BLOCK, max(MIN_BLOCK, 5 * source.max_text_bytes))
    names = wanted.resolve(_header(split, wanted, block, options))
    bad: list[tuple[int, str]] = []  # Row number and detail, in order.
    with open_decoded(split.file, options, end_line=True) as stream:
        theirs = sorted(set(names.values()))
        convert = pcsv.ConvertOptions(
            include_columns=theirs, column_types={name: pa.binary() for name in theirs}
        )
        reader = pcsv.open_csv(
            pa.PythonFile(stream, mode="r"),
            read_options=pcsv.ReadOptions(use_threads=False, block_size=block),
            parse_options=_parse_options(split, bad),
            convert_options=convert,
        )
        next_row = 0
        for batch in reader:
            for at in range(0, batch.num_rows, BATCH_ROWS):
                part = batch.slice(at, BATCH_ROWS)
                skipped = np.array([row for row, _ in bad], dtype=np.int64)
                span = np.arange(next_row, next_row + part.num_rows + len(skipped))
                rows = np.setdiff1d(span, skipped, assume_unique=True)[: part.num_rows]
                next_row = int(rows[-1]) + 1
                rejects = _take_before(bad, next_row)
                columns = {ours: part.column(name) for ours, name in names.items()}
                for name, declared in source.attributes.items():
                    if declared != "string":
                        columns[name] = blank_to_null(columns[name])
                yield checked_batch(columns, rows, rejects, place(split))
        if bad:
            empty = {name: pa.array([], pa.string()) for name in names}
            rejects = _take_before(bad, bad[-1][0] + 1)
            yield checked_batch(empty, np.empty(0, np.int64), rejects, place(split))
        stream.raw.check_digest()


def _take_before(bad: list[tuple[int, str]], row: int) -> Rejects:
    """Moves the bad rows below `row` into rejects."""
    rejects = Rejects()
    while bad and bad[0][0] < row:
        rejects.add(bad[0][0], "bad_row", bad.pop(0)[1])
    return rejects


def _parse_options(split: Split, bad: list[tuple[int, str]]) -> pcsv.ParseOptions:
    def skip(row: Any) -> str:
        # Arrow numbers records from 1, the header included.
        detail = f"expected {row.expected_columns} fields, found {row.actual_columns}"
        bad.append((row.number - 2, detail))
        return "skip"

    return pcsv.ParseOptions(
        delimiter="\t" if split.file.format == "tsv" else ",",
        newlines_in_values=True,
        invalid_row_handler=skip,
    )


def _header(split: Split, wanted: Wanted, block: int, options: dict[str, Any] | None) -> list[str]:
    """The file's column names.

    Raises:
        BadFile: a name we look for stands there twice.
    """
    with open_decoded(split.file, options, end_line=True) as stream:
        if not stream.read(1):
            return []
    with open_decoded(split.file, options, end_line=True) as stream:
        reader = pcsv.open_csv(
            pa.PythonFile(stream, mode="r"),
            read_options=pcsv.ReadOptions(use_threads=False, block_size=block),
            parse_options=_parse_options(split, []),
            convert_options=pcsv.ConvertOptions(check_utf8=False),
        )
        names = list(reader.schema.names)
    looked_for = {name for candidates in wanted.names.values() for name in candidates}
    if twice := sorted({n for n in names if n in looked_for and names.count(n) > 1}):
        raise BadFile("unreadable_file", f"columns {twice} stand twice in the header")
    return names
