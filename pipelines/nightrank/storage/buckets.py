"""Rows scattered by the hash of an id, so that rows of one id are found without reading all files.

A hash belongs to one of 256 buckets, by its top byte. A file with few rows joins neighbouring
buckets under one key, since every key of a scatter file costs some 600 bytes and a digest: 512 ids
in 256 buckets take 166 kB, in one bucket 20 kB. The number of buckets per key follows from the
number of rows in the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from nightrank.storage.dataset import FileRef
from nightrank.storage.hashes import id_hash
from nightrank.storage.ranges import Range
from nightrank.storage.reader import Reader
from nightrank.storage.scatter import Scatter

BUCKETS = 256
ROWS_PER_KEY = 1024


def bucket_of(hashes: np.ndarray) -> np.ndarray:
    """The bucket (0 to 255) of a uint64 hash: its top byte."""
    return (hashes >> np.uint64(56)).astype(np.int64)


def first_byte(hashes: pa.ChunkedArray) -> np.ndarray:
    """The bucket (0 to 255) of fixed-width binary hashes: their first byte."""
    array = hashes.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], hashes.type)
    width = array.type.byte_width
    raw = np.frombuffer(array.buffers()[1] or b"", dtype=np.uint8)
    start = array.offset * width
    return raw[start : start + len(array) * width : width].astype(np.int64)


def buckets_per_key(rows: int) -> int:
    """Neighbouring buckets that share one key in a file of `rows` rows; a power of two."""
    keys = 1
    while keys < BUCKETS and keys * ROWS_PER_KEY < rows:
        keys *= 2
    return BUCKETS // keys


def scatter(table: pa.Table, ids: pa.ChunkedArray) -> Scatter:
    """Scatters a table by the buckets of its rows' ids.

    Args:
        table: n rows.
        ids: string[n]; need not be a column of the table.
    """
    joined = buckets_per_key(table.num_rows)
    return Scatter(table, bucket_of(id_hash(ids.combine_chunks())) // joined * joined)


def runs(rows: int, rows_per_task: int) -> list[range]:
    """All buckets, in ranges of about `rows_per_task` rows each; `rows` is the total."""
    count = min(BUCKETS, max(1, -(-rows // rows_per_task)))
    return [range(BUCKETS * i // count, BUCKETS * (i + 1) // count) for i in range(count)]


@dataclass(frozen=True)
class Part:
    """The part of a file written by `scatter` that holds some buckets.

    Attributes:
        number: the caller's number of the file.
        ref: the file.
        ranges: adjacent ranges of the file.
        buckets: the wanted buckets, first and last plus one.
        exact: whether the ranges hold the wanted buckets and no other.
    """

    number: int
    ref: FileRef
    ranges: tuple[Range, ...]
    buckets: tuple[int, int]
    exact: bool

    def read(self, read: Reader, id_column: str) -> pa.Table:
        """The rows of the wanted buckets."""
        table = read.ranges(self.ref, self.ranges)
        if self.exact:
            return table
        bucket = bucket_of(id_hash(table[id_column].combine_chunks()))
        inside = (bucket >= self.buckets[0]) & (bucket < self.buckets[1])
        return table.filter(pa.array(inside))


def parts(files: Iterable[tuple[int, FileRef]], buckets: range) -> list[Part]:
    """The part of each numbered file that holds a range of buckets, where it has rows of them."""
    matching = []
    for number, ref in files:
        width = buckets_per_key(ref.rows)
        ranges = ref.ranges.between(buckets.start - width + 1, buckets.stop)
        if ranges:
            exact = ranges[0].key >= buckets.start and ranges[-1].key + width <= buckets.stop
            matching.append(Part(number, ref, ranges, (buckets.start, buckets.stop), exact))
    return matching
