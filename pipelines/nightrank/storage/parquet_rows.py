"""Parquet input: row groups, column projection first, every page checksum verified."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from nightrank.config import Source
from nightrank.storage.bytestream import open_raw
from nightrank.storage.inputs import Split
from nightrank.storage.parquet_footer import PlainFooter
from nightrank.storage.raw import (
    BATCH_ROWS,
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

# Spark's timestamps. In nanoseconds, which is Arrow's default, years before 1677 and after 2262
# become others without an error.
INT96_UNIT = "us"


def _is_text(type: pa.DataType) -> bool:
    return pt.is_string(type) or pt.is_large_string(type) or pt.is_string_view(type)


def _is_number(type: pa.DataType) -> bool:
    return pt.is_integer(type) or pt.is_floating(type) or pt.is_decimal(type)


def _is_day(type: pa.DataType) -> bool:
    return _is_text(type) or pt.is_date(type)


# What a declared type can be made from without guessing (an int64 is no date: in which unit?).
CASTABLE: dict[str, Callable[[pa.DataType], bool]] = {
    "string": lambda t: _is_day(t) or _is_number(t) or pt.is_boolean(t) or pt.is_timestamp(t),
    "int64": lambda t: _is_text(t) or _is_number(t),
    "float64": lambda t: _is_text(t) or _is_number(t),
    "bool": lambda t: _is_text(t) or pt.is_boolean(t),
    "timestamp": lambda t: _is_day(t) or pt.is_timestamp(t),
    "date32": _is_day,
}


def read_parquet(
    split: Split, wanted: Wanted, source: Source, options: dict[str, Any] | None
) -> Iterator[RawBatch]:
    """Reads the row groups of a split.

    Raises:
        BadFile: a column is missing, there twice or of a type that cannot hold it; the file is
            damaged, encrypted or no Parquet; it decodes to suspiciously much.
    """
    with open_raw(split.file, options) as raw:
        plain = PlainFooter(raw, split.file.size)
        footer = pq.ParquetFile(
            plain, arrow_extensions_enabled=False, coerce_int96_timestamp_unit=INT96_UNIT
        )
        schema = footer.schema_arrow
        names = wanted.resolve(schema.names)
        texts = _check_types(schema, names, wanted, source)
        # As dictionaries, repeated values are decoded once: how much they would decode to is known
        # before any memory is taken. Costs about 1 s per 1 GB of distinct texts.
        file = pq.ParquetFile(
            plain,
            metadata=footer.metadata,
            page_checksum_verification=True,
            arrow_extensions_enabled=False,
            read_dictionary=texts,
            coerce_int96_timestamp_unit=INT96_UNIT,
        )
        id_type = _id_type(schema.field(names[id_name(wanted.kind)]).type)
        count = footer.metadata.num_row_groups
        groups = range(count) if split.kind == "whole" else range(split.start, split.stop)
        batches = file.iter_batches(
            BATCH_ROWS, list(groups), sorted(set(names.values())), use_threads=False
        )
        number = decoded = 0
        for batch in batches:
            lengths = np.zeros(batch.num_rows, dtype=np.int64)
            for column in batch.columns:
                lengths += _lengths(column)
            decoded += int(lengths.sum())
            guard_expansion(decoded, split.file.size)
            for start, stop in pieces(lengths):
                part = batch.slice(start, stop - start)
                columns = {
                    ours: _plain(part.column(name), ours not in source.typed)
                    for ours, name in names.items()
                }
                rows = np.arange(number + start, number + stop, dtype=np.int64)
                checked = checked_batch(columns, rows, Rejects(), place(split))
                yield replace(checked, id_type=id_type)
            number += batch.num_rows


def _check_types(
    schema: pa.Schema, names: dict[str, str], wanted: Wanted, source: Source
) -> list[str]:
    """The text columns to read as dictionaries.

    Raises:
        BadFile: a column is there twice or cannot hold what it should.
    """
    texts = []
    for ours, name in names.items():
        if schema.names.count(name) > 1:
            raise BadFile("unreadable_file", f"column {name!r} stands twice in the file")
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
    """See `RawBatch`; nulls alone have none."""
    if pt.is_dictionary(type):
        type = type.value_type
    return "string" if _is_text(type) else "integer" if pt.is_integer(type) else ""


def _lengths(column: pa.Array) -> np.ndarray:
    """int64[n]: bytes of each row of a string column, decoded; 8 for others."""
    if pt.is_dictionary(column.type) and _is_text(column.type.value_type):
        values = pc.fill_null(_measure(column.dictionary), 0)
        found = values.take(column.indices)
    elif _is_text(column.type):
        found = _measure(column)
    else:
        return np.full(len(column), 8, dtype=np.int64)
    return pc.fill_null(found, 0).to_numpy(zero_copy_only=False).astype(np.int64)


def _measure(strings: pa.Array) -> pa.Array:
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
