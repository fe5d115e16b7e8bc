"""Offset tables of scatter files.

They are stored in records and kept in the driver's memory: 8,192 rerank units for 256 query shards
have 2.1 million ranges. Packed, a range takes 24 bytes in memory and 32 in a record; as an object
it took some 350.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

# Ranges follow each other without gaps: offsets are sums of lengths.
PACKED = np.dtype([("key", "<i4"), ("length", "<i8"), ("rows", "<i4"), ("xxh3", "<u8")])
PLACED = np.dtype([*PACKED.descr, ("offset", "<i8"), ("file", "<i4")])


@dataclass(frozen=True)
class Range:
    """The part of a scatter file that holds one key: byte offset and length, rows, xxh3-64."""

    key: int
    offset: int
    length: int
    rows: int
    xxh3: int


class Ranges(Sequence[Range]):
    """All ranges of one file, keys ascending."""

    __slots__ = ("_packed",)

    def __init__(self, packed: bytes = b"") -> None:
        self._packed = packed

    @staticmethod
    def of(ranges: Iterable[Range]) -> Ranges:
        """Packs ranges that follow each other from the file's start."""
        rows = [(part.key, part.length, part.rows, part.xxh3) for part in ranges]
        return Ranges(np.array(rows, PACKED).tobytes())

    @staticmethod
    def from_text(text: str) -> Ranges:
        """The inverse of `to_text`.

        Raises:
            ValueError: the text is not base64 of whole ranges.
        """
        packed = base64.b64decode(text, validate=True)
        if len(packed) % PACKED.itemsize:
            raise binascii.Error(f"expected whole ranges, found {len(packed)} bytes")
        return Ranges(packed)

    def to_text(self) -> str:
        """Base64, as records hold it."""
        return base64.b64encode(self._packed).decode()

    def placed(self, file: int = 0) -> np.ndarray:
        """As an array of `PLACED`: each range with its offset and the number of its file."""
        packed = np.frombuffer(self._packed, PACKED)
        placed = np.zeros(len(packed), PLACED)
        for name in PACKED.names or ():
            placed[name] = packed[name]
        placed["offset"][1:] = np.cumsum(packed["length"])[:-1]
        placed["file"] = file
        return placed

    def between(self, start: int, stop: int) -> tuple[Range, ...]:
        """The ranges whose key is at least `start` and below `stop`."""
        keys = np.frombuffer(self._packed, PACKED)["key"]
        first, last = np.searchsorted(keys, (start, stop)).tolist()
        return tuple(to_ranges(self.placed()[first:last])) if first < last else ()

    def __len__(self) -> int:
        return len(self._packed) // PACKED.itemsize

    def __iter__(self) -> Iterator[Range]:
        return to_ranges(self.placed())

    @overload
    def __getitem__(self, at: int) -> Range: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Range, ...]: ...
    def __getitem__(self, at: int | slice) -> Range | tuple[Range, ...]:
        ranges = tuple(self)
        return ranges[at]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self._packed == other._packed

    def __hash__(self) -> int:
        return hash(self._packed)

    def __reduce__(self) -> tuple[Any, ...]:
        return Ranges, (self._packed,)


def to_ranges(placed: np.ndarray) -> Iterator[Range]:
    """The rows of an array of `PLACED` as ranges."""
    columns = [placed[name].tolist() for name in ("key", "offset", "length", "rows", "xxh3")]
    return map(Range, *columns)
