"""Parquet input: read by row groups, with column projection and verified page checksums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from nightrank.config.schema import Source
from nightrank.inputs.bytestream import open_raw
from nightrank.inputs.parquet_footer import READ_SETTINGS, PlainFooter
from nightrank.inputs.raw import (
    BATCH_ROWS,
    PIECE_BYTES,
    BadFile,
    RawBatch,
    Rejects,
    Wanted,
    checked_batch,
    guard_expansion,
    id_name,
    pieces,
    place,
)
from nightrank.inputs.splits import Split
from nightrank.storage.filesystem import StorageOptions

# The part of each column that is fetched at once, instead of a row group's whole column.
BUFFER_BYTES, PROBE_BYTES = 8 << 20, 1 << 20
# The largest batch, if every row held the longest value of a dictionary.
DICTIONARY_BYTES = 256 << 20
# Delta encoding repeats the beginning of a value at no cost, and its length is not stored.
DELTA_ROWS = 256


def _is_text(type: pa.DataType) -> bool:
    return pt.is_string(type) or pt.is_large_string(type) or pt.is_string_view(type)


def _is_number(type: pa.DataType) -> bool:
    return pt.is_integer(type) or pt.is_floating(type) or pt.is_decimal(type)


def _is_day(type: pa.DataType) -> bool:
    return _is_text(type) or pt.is_date(type)


# The types that can be cast without guessing (an int64 is no date: its unit is unknown).
CASTABLE: dict[str, Callable[[pa.DataType], bool]] = {
    "string": lambda t: _is_day(t) or _is_number(t) or pt.is_boolean(t) or pt.is_timestamp(t),
    "int64": lambda t: _is_text(t) or _is_number(t),
    "float64": lambda t: _is_text(t) or _is_number(t),
    "bool": lambda t: _is_text(t) or pt.is_boolean(t),
    "timestamp": lambda t: _is_day(t) or pt.is_timestamp(t),
    "date32": _is_day,
}


def read_parquet(
    split: Split, wanted: Wanted, source: Source, options: StorageOptions | None
) -> Iterator[RawBatch]:
    """Reads the row groups of a split.

    Raises:
        BadFile: a column is missing, occurs twice or has a type that cannot be cast; the file is
            damaged, encrypted or not Parquet; its decoded size is suspicious.
    """
    with open_raw(split.file, options, ahead=False) as raw:
        file = _File(PlainFooter(raw, split.file.size))
        schema = file.footer.schema.to_arrow_schema()
        names = wanted.resolve(schema.names)
        texts = _check_types(schema, names, wanted, source)
        id_type = _id_type(schema.field(names[id_name(wanted.kind)]).type)
        columns = sorted(set(names.values()))
        count = file.footer.num_row_groups
        groups = range(count) if split.kind == "whole" else range(split.start, split.stop)
        number = decoded = 0
        for batch in (b for group in groups for b in file.batches(group, columns, texts)):
            lengths = np.zeros(batch.num_rows, dtype=np.int64)
            for column in batch.columns:
                lengths += _lengths(column)
            decoded += int(lengths.sum())
            guard_expansion(decoded, split.file.size)
            for start, stop in pieces(lengths):
                part = batch.slice(start, stop - start)
                columns_by_name = {
                    ours: _plain(part.column(name), ours not in source.typed)
                    for ours, name in names.items()
                }
                rows = np.arange(number + start, number + stop, dtype=np.int64)
                checked = checked_batch(columns_by_name, rows, Rejects(), place(split))
                yield replace(checked, id_type=id_type)
            number += batch.num_rows


class _File:
    """A Parquet file whose row groups are read in batches of bounded size."""

    def __init__(self, plain: PlainFooter) -> None:
        self._plain = plain
        self.footer = pq.ParquetFile(plain, **READ_SETTINGS).metadata

    def batches(self, group: int, columns: list[str], texts: list[str]) -> Iterator[pa.RecordBatch]:
        """The rows of a row group, at most `BATCH_ROWS` and about `PIECE_BYTES` at once.

        Memory holds a buffer and a page per column, and a batch. The rows of a batch follow from
        the mean length of the row group's texts, and from the longest one in its dictionary:
        repeated a few thousand times, one value of a small file fills any memory.
        """
        chunks = self._chunks(group, texts)
        mean = sum(c.total_uncompressed_size for c in chunks) // max(1, self._rows(group))
        longest = max((self._longest(group, name) for name in texts), default=0)
        rows = min(BATCH_ROWS, PIECE_BYTES // max(1, mean), DICTIONARY_BYTES // max(1, longest))
        if any("DELTA_BYTE_ARRAY" in chunk.encodings for chunk in chunks):
            rows = min(rows, DELTA_ROWS)
        file = self._open([], BUFFER_BYTES)
        yield from file.iter_batches(max(1, rows), [group], columns, use_threads=False)

    def _longest(self, group: int, name: str) -> int:
        """Bytes of the longest value in a column's dictionary; 0 where it has none.

        Reading one row reads the whole dictionary.
        """
        file = self._open([name], PROBE_BYTES)
        try:
            batch = next(file.iter_batches(1, [group], [name], use_threads=False), None)
        except (OSError, pa.ArrowNotImplementedError) as error:
            if "Not yet implemented" not in str(error):
                raise
            return 0  # Delta encodings have no dictionary.
        if batch is None:
            return 0
        return int(pc.max(_measure(batch.column(0).dictionary)).as_py() or 0)

    def _open(self, dictionaries: list[str], buffer: int) -> pq.ParquetFile:
        return pq.ParquetFile(
            self._plain,
            metadata=self.footer,
            page_checksum_verification=True,
            read_dictionary=dictionaries,
            buffer_size=buffer,
            pre_buffer=False,  # It would fetch all columns of the row group at once.
            **READ_SETTINGS,
        )

    def _rows(self, group: int) -> int:
        return int(self.footer.row_group(group).num_rows)

    def _chunks(self, group: int, names: list[str]) -> list[pq.ColumnChunkMetaData]:
        part = self.footer.row_group(group)
        chunks = [part.column(i) for i in range(part.num_columns)]
        return [chunk for chunk in chunks if chunk.path_in_schema in names]


def _check_types(
    schema: pa.Schema, names: dict[str, str], wanted: Wanted, source: Source
) -> list[str]:
    """Checks the types of the needed columns; returns the text columns, by the file's names.

    Raises:
        BadFile: a column occurs twice, or its type cannot be cast.
    """
    texts = []
    for ours, name in names.items():
        if schema.names.count(name) > 1:
            raise BadFile("unreadable_file", f"column {name!r} occurs twice in the file")
        type = schema.field(name).type
        if pt.is_dictionary(type):
            type = type.value_type
        expected: str
        if ours in source.typed:
            expected = source.typed[ours]
            fits = CASTABLE[expected](type)
        else:
            is_id = ours == id_name(wanted.kind)
            expected = "string or integer" if is_id else "string"
            fits = _is_text(type) or (is_id and pt.is_integer(type))
        # A column without a single value has the null type.
        if not fits and not pt.is_null(type):
            what = f"column {name!r} is {type}, expected {expected}"
            raise BadFile("unreadable_file", what, f"convert it, or set {wanted.kind}.columns")
        if _is_text(type):
            texts.append(name)
    return sorted(set(texts))


def _id_type(type: pa.DataType) -> str:
    """The `id_type` of a `RawBatch`; empty for the null type."""
    if pt.is_dictionary(type):
        type = type.value_type
    return "string" if _is_text(type) else "integer" if pt.is_integer(type) else ""


def _lengths(column: pa.Array) -> np.ndarray:
    """int64[n]: decoded bytes of each row of a string column; 8 for other columns."""
    if pt.is_dictionary(column.type) and _is_text(column.type.value_type):
        values = pc.fill_null(_measure(column.dictionary), 0)
        lengths = values.take(column.indices)
    elif _is_text(column.type):
        lengths = _measure(column)
    else:
        return np.full(len(column), 8, dtype=np.int64)
    return pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False).astype(np.int64)


def _measure(strings: pa.Array) -> pa.Array:
    """Bytes of each string."""
    if pt.is_string_view(strings.type):
        strings = strings.cast(pa.large_string())
    return pc.binary_length(strings)


def _plain(column: pa.Array, as_string: bool) -> pa.Array:
    """A column without dictionary and with one kind of string; integer ids as strings."""
    if pt.is_dictionary(column.type):
        column = column.dictionary_decode()
    if as_string or _is_text(column.type):
        return column.cast(pa.string())
    return column
