"""Attribute columns: declared types, lossless casts, and a canonical form for hashing."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from nightrank.config.schema import ColumnType

ATTRIBUTE_TYPES: dict[ColumnType, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", "UTC"),
    "date32": pa.date32(),
}
# First and last value: 0001-01-01 and 9999-12-31T23:59:59.999999, in microseconds; in days.
YEARS = {
    "timestamp": (-62_135_596_800_000_000, 253_402_300_799_999_999),
    "date32": (-719_162, 2_932_896),
}
HEXADECIMAL = "^0[xX]"
# A time of day followed by Z or an offset.
ZONED = r"[T ]\d{2}.*(Z|[+-]\d{2}(:?\d{2})?)$"


def cast_attribute(array: pa.Array, declared: ColumnType) -> tuple[pa.Array, np.ndarray]:
    """Casts a column to its declared type, without loss.

    A time without a zone is read as UTC. Times and days are limited to the years 1 to 9999, beyond
    which SQL, Python and Arrow's text forms have no value.

    Args:
        array: n values of any type that a reader accepts for the attribute.
        declared: the attribute's type.

    Returns:
        The column, n values, null where a value cannot be cast; and bool[n], true there.
    """
    try:
        return _cast(array, declared), np.zeros(len(array), dtype=bool)
    except pa.ArrowInvalid:
        pass
    if len(array) == 1:
        return pa.nulls(1, ATTRIBUTE_TYPES[declared]), np.ones(1, dtype=bool)
    # By halves: each bad value costs a few casts, the rest stays vectorised.
    middle = len(array) // 2
    head, head_bad = cast_attribute(array.slice(0, middle), declared)
    tail, tail_bad = cast_attribute(array.slice(middle), declared)
    return pa.concat_arrays([head, tail]), np.concatenate([head_bad, tail_bad])


def _cast(array: pa.Array, declared: ColumnType) -> pa.Array:
    """The column as declared.

    Raises:
        pa.ArrowInvalid: a value cannot be cast without loss, or is outside the years 1 to 9999.
    """
    if declared == "string" and (pt.is_timestamp(array.type) or pt.is_date(array.type)):
        text = array.cast(pa.string())
        # Arrow writes a time that its formatter cannot show as `<value out of range: ...>`.
        if pc.any(pc.starts_with(text, "<")).as_py():
            raise pa.ArrowInvalid("out of range")
        return text
    converted = _converted(array, declared)
    if declared in YEARS:
        bounds = pc.min_max(converted.cast(pa.int64() if declared == "timestamp" else pa.int32()))
        low, high = (bounds[name].as_py() for name in ("min", "max"))
        if low is not None and (low < YEARS[declared][0] or high > YEARS[declared][1]):
            raise pa.ArrowInvalid("out of range")
    return converted


def _converted(array: pa.Array, declared: ColumnType) -> pa.Array:
    target = ATTRIBUTE_TYPES[declared]
    if array.type == target:
        return array
    if declared == "int64" and pt.is_string(array.type):
        # Arrow reads `0x10` as 16; JSON and SQL know decimal digits alone.
        if pc.any(pc.match_substring_regex(array, HEXADECIMAL)).as_py():
            raise pa.ArrowInvalid("hexadecimal")
        return array.cast(target)
    if declared == "timestamp" and pt.is_string(array.type):
        zoned = pc.match_substring_regex(array, ZONED)
        nothing = pa.scalar(None, pa.string())
        with_zone = pc.if_else(zoned, array, nothing).cast(target)
        without = pc.if_else(zoned, nothing, array).cast(pa.timestamp("us")).cast(target)
        return pc.coalesce(with_zone, without)
    return array.cast(target)


def canonical(columns: dict[str, pa.Array]) -> pa.Array:
    """One byte string per row; two rows have the same string exactly if their values are equal.

    Each value is `name=<bytes>:<value>` and null is `name=-`, joined by commas; the lengths make it
    unambiguous. Floats are written by their bits, so that a stored hash depends on no formatting.

    Args:
        columns: arrays of n values, in the order of the result.

    Returns:
        binary[n].
    """
    parts = []
    for name, array in columns.items():
        content = _to_bytes(array)
        length = pc.binary_length(content).cast(pa.string()).cast(pa.binary())
        value = pc.binary_join_element_wise(length, content, pa.scalar(b":"))
        value = pc.fill_null(value, b"-")
        head = pa.scalar(f"{name}=".encode())
        parts.append(pc.binary_join_element_wise(head, value, pa.scalar(b"")))
    return pc.binary_join_element_wise(*parts, pa.scalar(b","))


def _to_bytes(array: pa.Array) -> pa.Array:
    """Values as binary[n]: numbers and times as decimal digits, floats by their bits."""
    if pt.is_floating(array.type):
        array = array.view(pa.int64())
    elif pt.is_timestamp(array.type):
        array = array.cast(pa.int64())
    elif pt.is_date(array.type):
        array = array.cast(pa.int32())
    return array.cast(pa.string()).cast(pa.binary())
