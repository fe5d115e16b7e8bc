"""JSONL: one object per line, read by byte range.

Arrow's JSON reader infers types, and a bad line fails its whole block. Here lines are parsed one by
one (290 MB/s for lines of 540 bytes, by orjson), so that a bad line is one reject.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from nightrank.config.schema import Corpus, Source
from nightrank.inputs.bytestream import open_decoded
from nightrank.inputs.lines import owned_lines
from nightrank.inputs.raw import (
    BATCH_ROWS,
    RawBatch,
    Rejects,
    Wanted,
    checked_batch,
    id_name,
    place,
)
from nightrank.inputs.splits import Split
from nightrank.storage.filesystem import StorageOptions

# JSON writes a byte as at most 6 (`\u0000`); a longer line cannot hold an acceptable text.
LINE_FACTOR, LINE_SLACK = 8, 64 << 20
KEYS_NOTED = 12
# orjson returns an integer above 64 bits as the nearest float; Python's parser returns it exactly.
ROUNDED = float(1 << 63)
NATIVE = {"string": str, "int64": int, "float64": float, "bool": bool}
ARROW = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}


def read_jsonl(
    split: Split, wanted: Wanted, source: Source, options: StorageOptions | None
) -> Iterator[RawBatch]:
    """Reads the lines that start within a split.

    Keys are looked up in every object separately, so that a row depends neither on other rows nor
    on how the file was split: the first default name of the id that an object has counts, and a
    missing title, vertical or attribute is null. Attributes have their declared type where every
    value of the batch has it, else they are strings.

    Raises:
        BadFile: no object of a whole file has an id, or none has a text; or the compressed stream
            is broken. (A part of a file cannot tell; see `accounting.check_input`.)
    """
    columns = _Columns(wanted, source, place(split))
    limit = LINE_FACTOR * source.max_text_bytes + LINE_SLACK
    with open_decoded(split.file, options) as stream:
        number = 0
        for lines in owned_lines(stream, split, limit):
            for at in range(0, len(lines), BATCH_ROWS):
                part = lines[at : at + BATCH_ROWS]
                yield _batch(part, number, columns)
                number += len(part)
        if split.kind == "whole":
            stream.raw.check_digest()
            columns.check()


@dataclass
class _Columns:
    """The needed columns, and which of them the split's objects had so far.

    Attributes:
        wanted: names.
        source: types and policies.
        where: the split.
        absent: our names of the columns that no object had so far.
        keys: keys of objects without an id or a text, for the error message.
        objects: number of objects so far.
    """

    wanted: Wanted
    source: Source
    where: str
    absent: set[str] = field(init=False)
    keys: set[str] = field(default_factory=set)
    objects: int = 0

    def __post_init__(self) -> None:
        self.absent = set(self.wanted.names)

    def note(self, value: dict[str, Any]) -> None:
        """Notes which columns an object has."""
        self.objects += 1
        names = self.wanted.names
        self.absent = {n for n in self.absent if not any(key in value for key in names[n])}
        if self.absent & self._needed() and len(self.keys) < KEYS_NOTED:
            self.keys.update(value)

    def check(self) -> None:
        """Refuses a whole file without a usable row.

        Raises:
            BadFile: its objects have no id, or no text.
        """
        if self.objects and (missing := sorted(self.absent & self._needed())):
            raise self.wanted.missing(missing[0], self.keys)

    def _needed(self) -> set[str]:
        """The columns without which a row is rejected; a deletion needs no text."""
        id = id_name(self.wanted.kind)
        return {id} if isinstance(self.source, Corpus) and self.source.feed else {id, "text"}


def _batch(lines: list[bytes | None], first: int, needed: _Columns) -> RawBatch:
    """Parses lines; row numbers count from `first`."""
    rejects = Rejects()
    rows: list[int] = []
    source, id = needed.source, id_name(needed.wanted.kind)
    names = dict(needed.wanted.names)
    id_keys = names.pop(id)
    keys = {name: candidates[0] for name, candidates in names.items()}
    ids: list[str | None] = []
    columns: dict[str, list[Any]] = {name: [] for name in keys}
    texts = [name for name in keys if name not in source.typed]
    exact = [keys[name] for name, t in source.typed.items() if t in ("string", "int64")]
    for row, line in enumerate(lines, first):
        if line is None:
            rejects.add(row, "too_large", "the line is too long for any acceptable text")
            continue
        if not line or line.isspace():
            continue
        try:
            value = _parse(line)
        except orjson.JSONDecodeError as error:
            # orjson's messages name a place and never quote the line.
            message = f"{error.msg} at byte {error.pos}"
            bad = "invalid_utf8" if "surrogate" in message else "bad_json"
            rejects.add(row, bad, message)
            continue
        if type(value) is not dict:
            rejects.add(row, "bad_json", f"expected an object, found {type(value).__name__}")
            continue
        if needed.absent:
            needed.note(value)
        key = _first(value, id_keys)
        if type(key) is float or (exact and _is_rounded(value, exact)):
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):  # Python parses at most 4,300 digits.
                rejects.add(row, "bad_json", "an integer of too many digits")
                continue
            key = _first(value, id_keys)
        if type(key) is int:
            key = str(key)
        if key is not None and type(key) is not str:
            rejects.add(row, "bad_type", f"{id} is {type(key).__name__}, not a string or integer")
            continue
        if fault := _fault(value, keys, texts, source):
            rejects.add(row, *fault, id=key)
            continue
        rows.append(row)
        ids.append(key)
        for name, in_file in keys.items():
            columns[name].append(value.get(in_file))
    arrays = {id: pa.array(ids, pa.string())} | {
        name: _attribute(values, source.typed[name])
        if name in source.typed
        else pa.array(values, pa.string())
        for name, values in columns.items()
    }
    numbers, stop = np.array(rows, dtype=np.int64), first + len(lines)
    batch = checked_batch(arrays, numbers, rejects, needed.where, next_row=stop)
    return replace(batch, present=frozenset(needed.wanted.names) - needed.absent)


def _first(value: dict[str, Any], keys: tuple[str, ...]) -> Any:
    """The value of the first of these keys that an object has."""
    for key in keys:
        if key in value:
            return value[key]
    return None


def _is_rounded(value: dict[str, Any], keys: list[str]) -> bool:
    """Whether one of the values may be an integer that orjson rounded."""
    numbers = [value.get(key) for key in keys]
    return any(type(number) is float and abs(number) >= ROUNDED for number in numbers)


def _parse(line: bytes) -> Any:
    """The value of a line.

    orjson is strict. Python's `json.dumps` writes NaN and Infinity, mostly in fields that are not
    read, and a number above 1.8e308 is valid JSON: such a line is parsed again, by Python.

    Raises:
        orjson.JSONDecodeError: the line is not JSON for Python either.
    """
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        if b"NaN" not in line and b"Infinity" not in line and "infinity" not in error.msg:
            raise
        try:
            value = json.loads(line.decode())
            # A lone surrogate, which Python accepts, is no text.
            json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            value = None
        if value is None:
            raise
        return value


def _fault(
    value: dict[str, Any], keys: dict[str, str], texts: list[str], source: Source
) -> tuple[str, str] | None:
    """Reason and detail of a value whose JSON type its column cannot hold; None if all fit."""
    for name in texts:
        text = value.get(keys[name])
        if text is not None and type(text) is not str:
            return "bad_type", f"{name} is {type(text).__name__}, not a string"
    for name in source.typed:
        attribute = value.get(keys[name])
        if isinstance(attribute, (dict, list)):
            return "bad_attribute", f"{name} is {type(attribute).__name__}, not a single value"
        if type(attribute) is float and not math.isfinite(attribute):
            return "bad_attribute", f"{name} is not a finite number"
    return None


def _attribute(values: list[Any], declared: str) -> pa.Array:
    """Values of the declared type where all have that JSON type, else strings to be cast.

    Both ways yield the same values, so that a row does not depend on others.
    """
    if set(map(type, values)) <= {NATIVE.get(declared, str), type(None)}:
        try:
            return pa.array(values, ARROW.get(declared, pa.string()))
        except (OverflowError, pa.ArrowInvalid):  # An integer over 64 bits.
            pass
    texts = [
        v if v is None or type(v) is str else str(v).lower() if type(v) is bool else repr(v)
        for v in values
    ]
    return pa.array(texts, pa.string())
