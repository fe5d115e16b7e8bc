"""The first rows of an input, with all of its columns, for `init`.

Nothing is hashed and no file is read to its end: only a megabyte of the first file, or the first
rows of its first row group, whatever the size of the input.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from nightrank.config.schema import ColumnType
from nightrank.errors import NightrankError
from nightrank.inputs.attributes import cast_attribute
from nightrank.inputs.bytestream import open_decoded, open_raw
from nightrank.inputs.files import find_files
from nightrank.inputs.listing import KNOWN, kind_of, store_errors
from nightrank.inputs.parquet_footer import READ_SETTINGS, PlainFooter
from nightrank.inputs.raw import BadFile
from nightrank.inputs.splits import InputFile
from nightrank.storage.filesystem import StorageOptions, connect

ROWS, PIECE_BYTES = 200, 1 << 20
# A longer name, or one without a letter, is taken for a value of a file without a header.
LONGEST_NAME = 64


@dataclass(frozen=True)
class FirstRows:
    """The beginning of an input.

    Attributes:
        files: number of files.
        formats: their formats, sorted, e.g. `jsonl` or `csv, gzip`.
        columns: values by column name, at most `ROWS`, None where a row has none.
        types: the attribute type that fits each column; lists and structs have none.
    """

    files: int
    formats: tuple[str, ...]
    columns: dict[str, list[Any]]
    types: dict[str, ColumnType]


def first_rows(path: str, options: StorageOptions | None = None) -> FirstRows:
    """Reads the beginning of the first file of a path.

    Args:
        path: a file, a folder or a glob, as in a config.
        options: of the store.

    Raises:
        NightrankError: E_EMPTY where there is no file; E_SCHEMA for a file that cannot be read or
            has no header; else as `inputs.list_inputs`.
    """
    filesystem, place = connect(path, options)
    with store_errors(path, "E_EMPTY"):
        entries = find_files(filesystem, place, path, "auto").files
    if not entries:
        do = "correct the path; a folder is searched for " + KNOWN
        raise NightrankError("E_EMPTY", "no input files found", path, do)
    kinds = {url: kind_of(url, "auto") for url in entries}
    # An empty file has no columns.
    first = next((url for url, entry in entries.items() if entry.size), next(iter(entries)))
    file = InputFile(first, entries[first].size, "", *kinds[first])
    read = {"parquet": _parquet, "jsonl": _jsonl}.get(file.format, _delimited)
    try:
        columns = read(file, options)
    except BadFile as error:
        what = f"{error.reason}: {error.detail}"
        raise NightrankError("E_SCHEMA", what, file.url, error.do) from None
    formats = sorted({", ".join(filter(None, kind)) for kind in kinds.values()})
    types = {name: kind for name, values in columns.items() if (kind := _type(values))}
    return FirstRows(len(entries), tuple(formats), {n: list(v) for n, v in columns.items()}, types)


def _parquet(file: InputFile, options: StorageOptions | None) -> dict[str, list[Any]]:
    with open_raw(file, options) as raw:
        parquet = pq.ParquetFile(PlainFooter(raw, file.size), **READ_SETTINGS)
        batches = parquet.iter_batches(batch_size=ROWS)
        batch = next(batches, pa.RecordBatch.from_pylist([], schema=parquet.schema_arrow))
        return {name: _values(batch.column(i)) for i, name in enumerate(batch.schema.names)}


def _values(column: pa.Array) -> list[Any]:
    """A column as Python values; values that Python lacks, such as the year 10000, as text."""
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        try:
            return list(column.cast(pa.string()).to_pylist())
        except pa.ArrowException:
            return [None] * len(column)


def _text(file: InputFile, options: StorageOptions | None) -> list[str]:
    """The complete lines of the first megabyte."""
    with open_decoded(file, options) as stream:
        data = stream.read(PIECE_BYTES)
    try:
        text = data.decode("utf-8-sig", errors="strict" if len(data) < PIECE_BYTES else "ignore")
    except UnicodeDecodeError:
        raise BadFile("unreadable_file", "the file is not UTF-8", "save it as UTF-8") from None
    lines = text.split("\n")
    return lines if len(data) < PIECE_BYTES or len(lines) < 2 else lines[:-1]


def _jsonl(file: InputFile, options: StorageOptions | None) -> dict[str, list[Any]]:
    rows: list[dict[str, Any]] = []
    with open_decoded(file, options) as stream:
        data = stream.read(PIECE_BYTES)
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for line in lines if len(data) < PIECE_BYTES or len(lines) < 2 else lines[:-1]:
        try:
            row = orjson.loads(line) if line.strip() else None
        except orjson.JSONDecodeError:
            continue  # A bad row; `run` counts them.
        if isinstance(row, dict):
            rows.append(row)
        if len(rows) == ROWS:
            break
    if not rows:
        raise BadFile("unreadable_file", "expected a JSON object on each line, found none")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _delimited(file: InputFile, options: StorageOptions | None) -> dict[str, list[Any]]:
    lines = _text(file, options)
    read: Iterator[list[str]]
    if file.format == "tsv":  # Quotes have no meaning in TSV.
        read = (line.removesuffix("\r").split("\t") for line in lines if line)
    else:
        csv.field_size_limit(2 * PIECE_BYTES)
        read = csv.reader(io.StringIO("\n".join(lines), newline=""))
    header = next(read, [])
    rows = [row for row, _ in zip(read, range(ROWS), strict=False) if len(row) == len(header)]
    named = [len(n) <= LONGEST_NAME and any(c.isalpha() for c in n) for n in header]
    if not header or not all(named):
        what = "the first line is no header: expected a name for every column"
        raise BadFile("unreadable_file", what, "add a line of column names, or set header")
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def _type(values: list[Any]) -> ColumnType | None:
    """The narrowest type that holds all values; None for nested ones."""
    filled = [value for value in values if value not in (None, "")]
    if not filled:
        return "string"
    try:
        return _narrowest(pa.array(filled))
    except (pa.ArrowException, OverflowError):
        return None


def _narrowest(array: pa.Array) -> ColumnType | None:
    kind = array.type
    if pt.is_nested(kind) or pt.is_binary(kind) or pt.is_large_binary(kind):
        return None
    if pt.is_boolean(kind):
        return "bool"
    if pt.is_integer(kind):
        array.cast(pa.int64())  # Raises where a value is too large.
        return "int64"
    if pt.is_floating(kind):
        return "float64"
    if pt.is_date(kind):
        return "date32"
    if pt.is_timestamp(kind):
        return "timestamp"
    narrower: tuple[ColumnType, ...] = ("int64", "float64", "date32", "timestamp")
    # A text such as `007` is no number.
    texts = array.cast(pa.string())
    zeros = pc.any(pc.match_substring_regex(texts, "^[+-]?0[0-9]")).as_py()
    if pt.is_decimal(kind):  # Only strings hold it without loss.
        narrower = ()
    for declared in narrower[2:] if zeros else narrower:
        if not cast_attribute(texts, declared)[1].any():
            return declared
    return "string"
