"""JSONL: one object a line, by byte range.

Arrow's JSON reader infers types, and one bad line costs it a whole block; here lines are parsed one
by one (orjson: 290 MB/s for 540-byte lines, measured), so that a bad line is one reject.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from nightrank.config import Source
from nightrank.storage.bytestream import BOM, Decoded, open_decoded
from nightrank.storage.inputs import Split
from nightrank.storage.raw import (
    BATCH_ROWS,
    RawBatch,
    Rejects,
    Wanted,
    checked_batch,
    id_name,
    place,
)

BLOCK_BYTES = 4 << 20
# Keys are looked for in the objects of the first MiB; a first line may be longer, up to HEAD_LIMIT.
HEAD_BYTES = 1 << 20
HEAD_LIMIT = 64 << 20
# JSON writes a byte as at most 6 (`\u0000`); a longer line cannot hold an acceptable text.
LINE_FACTOR, LINE_SLACK = 8, 64 << 20
NATIVE = {"string": str, "int64": int, "float64": float, "bool": bool}
ARROW = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}


def read_jsonl(
    split: Split, wanted: Wanted, source: Source, options: dict[str, Any] | None
) -> Iterator[RawBatch]:
    """Reads the lines that start within a split.

    Attributes come as their declared type where every value of the batch has it, else as strings.

    Raises:
        BadFile: a key is in none of the file's first objects, or the compressed stream is broken.
    """
    names = wanted.resolve(_head_keys(split, wanted, options))
    limit = LINE_FACTOR * source.max_text_bytes + LINE_SLACK
    with open_decoded(split.file, options) as stream:
        number = 0
        for lines in _owned_lines(stream, split, limit):
            for at in range(0, len(lines), BATCH_ROWS):
                part = lines[at : at + BATCH_ROWS]
                yield _batch(part, number, names, wanted, source, place(split))
                number += len(part)
        if split.kind == "whole":
            stream.raw.check_digest()


def _head_keys(split: Split, wanted: Wanted, options: dict[str, Any] | None) -> set[str]:
    """Keys of the objects at the file's head: the same for each of its splits.

    A file without an object there has no say in names; it gets the usual ones.
    """
    keys: set[str] = set()
    objects = 0
    with open_decoded(split.file, options) as stream:
        head = stream.read(HEAD_BYTES)
        while True:
            whole = stream.read(1)
            # At the end of the file the last line is complete without a line feed.
            lines = (head if not whole else head[: head.rfind(b"\n") + 1]).split(b"\n")
            for line in lines:
                try:
                    value = orjson.loads(line.removeprefix(BOM))
                except orjson.JSONDecodeError:
                    continue
                if isinstance(value, dict):
                    objects += 1
                    keys.update(value)
            if objects or not whole or len(head) >= HEAD_LIMIT:
                break
            head += whole + stream.read(len(head))
    return keys if objects else {candidates[0] for candidates in wanted.names.values()}


def _owned_lines(stream: Decoded, split: Split, limit: int) -> Iterator[list[bytes | None]]:
    """Lists of the lines that start in the split, without line feeds; None for one over `limit`."""
    position, stop = 0, split.stop
    if split.kind == "whole":
        stop = 1 << 62
    elif split.start:
        # From the byte before: a line feed there means that a line starts at `start`.
        position = split.start - 1
        stream.raw.seek(position)
        skipping = True
        while skipping:
            block = stream.read(BLOCK_BYTES)
            cut = block.find(b"\n") + 1
            skipping = cut == 0 and bool(block)
            position += cut or len(block)
        stream.raw.seek(position)
    parts: list[bytes] = []  # Of a line that no block has ended yet.
    held = 0
    dropped = False
    while position < stop:
        block = stream.read(BLOCK_BYTES)
        cut = block.rfind(b"\n") + 1 if block else 0
        if block and not cut:
            held += len(block)
            dropped = dropped or held > limit
            parts = [] if dropped else [*parts, block]
            continue
        complete = b"".join([*parts, block[:cut]])
        lines: list[bytes | None]
        if dropped:
            # The long line counts as one; its bytes are gone, its length is not.
            tail = block.find(b"\n") + 1 if block else 0
            yield [None]
            position += held + (tail if block else 0)
            complete = block[tail:cut]
        if position < stop < position + len(complete):
            complete = complete[: complete.find(b"\n", stop - position - 1) + 1 or None]
        elif position >= stop:
            complete = b""
        if complete:
            lines = list(complete.split(b"\n"))
            if complete.endswith(b"\n"):
                lines.pop()
            if position == 0:
                lines[0] = complete_bom(lines[0])
            yield lines
        position += len(complete)
        if not block:
            return
        parts, held, dropped = ([block[cut:]] if cut < len(block) else []), len(block) - cut, False


def complete_bom(line: bytes | None) -> bytes | None:
    """A file's first line without a byte order mark."""
    return line.removeprefix(BOM) if line else line


def _batch(
    lines: list[bytes | None],
    first: int,
    names: dict[str, str],
    wanted: Wanted,
    source: Source,
    where: str,
) -> RawBatch:
    """Parses lines; row numbers count from `first`."""
    rejects = Rejects()
    rows: list[int] = []
    columns: dict[str, list[Any]] = {name: [] for name in names}
    id = id_name(wanted.kind)
    texts = [name for name in names if name not in source.typed and name != id]
    for row, line in enumerate(lines, first):
        if line is None:
            rejects.add(row, "too_large", "the line is too long for any acceptable text")
            continue
        if not line or line.isspace():
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            # orjson's messages name a place and never quote the line.
            message = f"{error.msg} at byte {error.pos}"
            bad = "invalid_utf8" if "surrogate" in message else "bad_json"
            rejects.add(row, bad, message)
            continue
        if type(value) is not dict:
            rejects.add(row, "bad_json", f"expected an object, found {type(value).__name__}")
            continue
        key = value.get(names[id])
        if type(key) is int:
            value[names[id]] = key = str(key)
        if key is not None and type(key) is not str:
            rejects.add(row, "bad_type", f"{id} is {type(key).__name__}, not a string or integer")
            continue
        if fault := _fault(value, names, texts, source):
            rejects.add(row, *fault, id=key)
            continue
        rows.append(row)
        for name, theirs in names.items():
            columns[name].append(value.get(theirs))
    arrays = {
        name: _attribute(values, source.typed[name])
        if name in source.typed
        else pa.array(values, pa.string())
        for name, values in columns.items()
    }
    return checked_batch(arrays, np.array(rows, dtype=np.int64), rejects, where)


def _fault(
    value: dict[str, Any], names: dict[str, str], texts: list[str], source: Source
) -> tuple[str, str] | None:
    """Reason and detail where a value has a JSON type that its column cannot hold."""
    for name in texts:
        found = value.get(names[name])
        if found is not None and type(found) is not str:
            return "bad_type", f"{name} is {type(found).__name__}, not a string"
    for name in source.typed:
        found = value.get(names[name])
        if isinstance(found, (dict, list)):
            return "bad_attribute", f"{name} is {type(found).__name__}, not a single value"
    return None


def _attribute(values: list[Any], declared: str) -> pa.Array:
    """Values as declared where all have that very JSON type, else as strings to be cast.

    Both ways give the same values, so that a row never depends on its neighbours.
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
