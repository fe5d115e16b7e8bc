"""TSV: one row per line, tabs between fields, and no quoting.

This is IANA's text/tab-separated-values
(https://www.iana.org/assignments/media-types/text/tab-separated-values), and the form of public
collections: a field of MS MARCO may begin with a double quote that is never closed. Fields are kept
byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from nightrank.config.schema import Source
from nightrank.inputs.bytestream import open_decoded
from nightrank.inputs.header import column_places
from nightrank.inputs.lines import owned_lines
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

# The longest row: a text, a title as long, and other columns.
LINE_FACTOR, LINE_SLACK = 3, 64 << 20


def read_tsv(
    split: Split, wanted: Wanted, source: Source, options: StorageOptions | None
) -> Iterator[RawBatch]:
    """Reads a whole TSV file.

    Lines end with a line feed, or with a carriage return and a line feed. Row numbers count from
    the first line after the header; empty lines are no rows. An empty field is an empty string, and
    for attributes of other types null.

    Raises:
        BadFile: a column is missing or occurs twice, or the stream is broken.
    """
    limit = LINE_FACTOR * source.max_text_bytes + LINE_SLACK
    with open_decoded(split.file, options) as stream:
        width, number = 0, 0
        places: dict[str, int] = {}
        for block in owned_lines(stream, split, limit):
            lines = [line and line.removesuffix(b"\r") for line in block]
            lines = [line for line in lines if line != b""]
            if not places and lines:
                names = _fields(lines[0])
                places = column_places(names, wanted, source)
                width = len(source.header or names)
                lines = lines if source.header else lines[1:]
            for at in range(0, len(lines), BATCH_ROWS):
                part = lines[at : at + BATCH_ROWS]
                yield _batch(part, number, width, places, source, place(split))
                number += len(part)
        if not places:
            column_places(None, wanted, source)
        stream.raw.check_digest()


def _fields(line: bytes | None) -> list[str]:
    """The fields of a file's first line.

    Raises:
        BadFile: the line is not UTF-8.
    """
    try:
        return (line or b"").decode().split("\t")
    except UnicodeDecodeError:
        raise BadFile("unreadable_file", "the first line is not UTF-8") from None


def _batch(
    lines: list[bytes | None],
    first: int,
    width: int,
    places: dict[str, int],
    source: Source,
    where: str,
) -> RawBatch:
    """Splits lines into fields; row numbers count from `first`."""
    rejects = Rejects()
    rows: list[int] = []
    fields: list[list[bytes]] = []
    for row, line in enumerate(lines, first):
        if line is None:
            rejects.add(row, "too_large", "the line is too long for any acceptable text")
            continue
        values = line.split(b"\t")
        if len(values) == width:
            rows.append(row)
            fields.append(values)
        else:
            rejects.add(row, "bad_row", f"expected {width} fields, found {len(values)}")
    columns = {
        name: pa.array([row_fields[at] for row_fields in fields], pa.binary())
        for name, at in places.items()
    }
    for name, declared in source.typed.items():
        if declared != "string":
            columns[name] = blank_to_null(columns[name])
    return checked_batch(columns, np.array(rows, dtype=np.int64), rejects, where)
