"""What readers of input files return: raw columns, row numbers and rejects, before validation."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.config.schema import Source
from nightrank.inputs.splits import Split

# Limits the memory of a batch of short texts; PIECE_BYTES limits it for long ones.
BATCH_ROWS = 8192
PIECE_BYTES = 64 << 20
# A 23 kB Parquet file can decode to 200 MB while its footer says 21 kB: only decoding shows it.
EXPANSION_RATIO = 200
EXPANSION_BYTES = 1 << 30
DETAIL_LENGTH = 200
NAMES_SHOWN, NAME_LENGTH = 12, 64


def rejects_schema() -> pa.Schema:
    """Rejects; `row` is the row in the split, -1 for a whole file; `detail` quotes no text."""
    return pa.schema(
        [
            ("row", pa.int64()),
            ("id", pa.string()),
            ("reason", pa.string()),
            ("detail", pa.string()),
        ]
    )


@dataclass(frozen=True)
class RawBatch:
    """At most `BATCH_ROWS` rows as the file has them.

    Attributes:
        columns: `doc_id` or `query_id`, `text`, where present `title` or `vertical`, all valid
            UTF-8 strings; then one column per attribute, in the type of the file.
        rows: int64[n], each row's number in its split, from 0. Blank JSONL lines take a number.
        rejects: `rejects_schema()`, rows that could not be read.
        where: the split, for error messages.
        next_row: the number that the split's next row takes.
        id_type: `string` or `integer` where the file declares the type of its ids, as Parquet does;
            else empty.
        present: our names of the columns that the split has, as far as it was read; in JSONL, of
            the keys that an object had.
    """

    columns: pa.RecordBatch
    rows: pa.Array
    rejects: pa.Table
    where: str
    next_row: int
    id_type: str = ""
    present: frozenset[str] = frozenset()


@dataclass
class Rejects:
    """Collects rejects one by one."""

    rows: list[int] = field(default_factory=list)
    ids: list[str | None] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)

    def add(self, row: int, reason: str, detail: str, id: str | None = None) -> None:
        """Adds a row; `detail` is cut to 200 characters and must not quote the row's text."""
        self.rows.append(row)
        self.ids.append(id)
        self.reasons.append(reason)
        self.details.append(detail[:DETAIL_LENGTH])

    def table(self) -> pa.Table:
        """`rejects_schema()`."""
        columns = [self.rows, self.ids, self.reasons, self.details]
        schema = rejects_schema()
        return pa.table(
            [pa.array(c, t) for c, t in zip(columns, schema.types, strict=True)], schema=schema
        )


class BadFile(Exception):
    """A whole file that cannot be used.

    Args:
        reason: `unreadable_file` or `suspicious_expansion`.
        detail: what is wrong, without the file's text.
        do: what the user does next.
    """

    def __init__(self, reason: str, detail: str, do: str = "correct or remove the file") -> None:
        super().__init__(detail)
        self.reason, self.detail, self.do = reason, detail, do


@dataclass(frozen=True)
class Wanted:
    """The columns that a reader looks for, and their names.

    Attributes:
        kind: `corpus` or `queries`.
        names: possible names in the file by our name; the first one present counts.
        optional: our names that need not be present.
    """

    kind: str
    names: dict[str, tuple[str, ...]]
    optional: frozenset[str]

    @classmethod
    def of(cls, kind: str, source: Source) -> Wanted:
        """The columns of a source."""
        id, extra = id_name(kind), "title" if kind == "corpus" else "vertical"
        mapped = {ours: (name,) for ours, name in source.columns.items()}
        names: dict[str, tuple[str, ...]] = {
            id: mapped.get("id", ("_id", id, "id")),
            "text": mapped.get("text", ("text",)),
            extra: mapped.get(extra, (extra,)),
        }
        names |= {name: (name,) for name in source.typed}
        return cls(kind, names, frozenset({extra} - set(mapped)))

    def resolve(self, in_file: Collection[str]) -> dict[str, str]:
        """The file's names by ours.

        Args:
            in_file: the file's columns.

        Raises:
            BadFile: a column is missing.
        """
        chosen = {}
        for ours, candidates in self.names.items():
            name = next((c for c in candidates if c in in_file), None)
            if name is not None:
                chosen[ours] = name
            elif ours not in self.optional:
                raise self.missing(ours, in_file)
        return chosen

    @property
    def required(self) -> frozenset[str]:
        """Our names that an input must have."""
        return frozenset(self.names) - self.optional

    def spelt(self, ours: str) -> str:
        """The names that a file may use for a column, for a message."""
        return " or ".join(repr(name) for name in self.names[ours])

    def missing(self, ours: str, in_file: Collection[str]) -> BadFile:
        """The error for a file without a column; it omits names that are too long for one."""
        names = sorted(name for name in in_file if len(name) <= NAME_LENGTH)
        shown = ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
        what = f"column {self.spelt(ours)} not found; found: {shown or 'no column'}"
        return BadFile("unreadable_file", what, f"set {self.kind}.columns or attributes")


def id_name(kind: str) -> str:
    """The id column's name: `doc_id` or `query_id`."""
    return "doc_id" if kind == "corpus" else "query_id"


def place(split: Split) -> str:
    """The name of a split in error messages."""
    if split.kind == "whole":
        return split.file.url
    unit = "byte" if split.kind == "bytes" else "row group"
    return f"{split.file.url}, from {unit} {split.start}"


def checked_batch(
    columns: dict[str, pa.Array],
    rows: np.ndarray,
    rejects: Rejects,
    where: str,
    next_row: int | None = None,
) -> RawBatch:
    """A batch without the rows whose strings are not valid UTF-8, which become rejects.

    Args:
        columns: arrays of equal length; strings may hold any bytes.
        rows: int64[n], row numbers.
        rejects: the rejects so far; the invalid rows are added.
        where: the split, for error messages.
        next_row: see `RawBatch`; by default the number after the last row and reject.
    """
    if next_row is None:
        next_row = int(max(rows.max(initial=-1), max(rejects.rows, default=-1))) + 1
    bad = np.zeros(len(rows), dtype=bool)
    for name, array in columns.items():
        try:
            if pa.types.is_binary(array.type):
                columns[name] = array.cast(pa.string())
            else:
                array.validate(full=True)
        except pa.ArrowInvalid:
            invalid = _invalid_utf8(array)
            for i in np.flatnonzero(invalid & ~bad):
                rejects.add(int(rows[i]), "invalid_utf8", f"column {name!r} is not valid UTF-8")
            bad |= invalid
    if bad.any():
        keep = pa.array(~bad)
        rows = rows[~bad]
        for name, array in columns.items():
            kept = array.filter(keep)
            columns[name] = kept.cast(pa.string()) if pa.types.is_binary(kept.type) else kept
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    numbers, present = pa.array(rows, pa.int64()), frozenset(columns)
    return RawBatch(batch, numbers, rejects.table(), where, next_row, present=present)


def _invalid_utf8(array: pa.Array) -> np.ndarray:
    """bool[n]; loops over rows, and is called only for a batch with an invalid string."""
    invalid = np.zeros(len(array), dtype=bool)
    for i, value in enumerate(array.cast(pa.binary()).to_pylist()):
        if value is not None:
            try:
                value.decode()
            except UnicodeDecodeError:
                invalid[i] = True
    return invalid


def pieces(lengths: np.ndarray) -> list[tuple[int, int]]:
    """Divides rows into slices of about `PIECE_BYTES`.

    Args:
        lengths: int64[n], bytes of each row.

    Returns:
        (start, stop) of each slice; a slice exceeds the limit by one row at most.
    """
    group = np.cumsum(lengths) // PIECE_BYTES
    cuts = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(lengths)]
    return [(a, b) for a, b in zip(cuts, cuts[1:], strict=False) if b > a]


def guard_expansion(decoded: int, size: int) -> None:
    """Refuses a file whose decoded size is far above its size.

    Args:
        decoded: bytes decoded so far.
        size: bytes of the file.

    Raises:
        BadFile: `suspicious_expansion`.
    """
    if decoded > EXPANSION_BYTES and decoded > EXPANSION_RATIO * size:
        what = f"{size} bytes decode to more than {decoded} bytes"
        raise BadFile("suspicious_expansion", what, "check where the file comes from")


def blank_to_null(array: pa.Array) -> pa.Array:
    """Binary or string values with the empty ones as null: CSV writes missing numbers so."""
    return pc.if_else(pc.equal(pc.binary_length(array), 0), pa.scalar(None, array.type), array)
