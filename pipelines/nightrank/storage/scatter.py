"""Scatter files: one table split by a small integer key, so that each key's rows can be read alone.

A producer writes one file whatever the number of consumers, so that the number of objects grows
with producers plus consumers and not with their product. The file is a sequence of Arrow IPC
streams, one per key, compressed by zstd where that saves space. The offset table is stored in the
record, with an xxh3-64 digest per range, since a range cannot be checked against the sha256 of the
whole file.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import xxhash

from nightrank.errors import NightrankError
from nightrank.storage.ranges import Range, Ranges

# Below this many bytes per key, zstd's set-up costs ten times the writing and saves nothing: 100
# keys of 20 rows of 12 bytes took 2.5 ms and 53.0 kB against 0.2 ms and 48.2 kB (Zen 3).
COMPRESSED_BYTES = 1024
# The part of the file held in memory, in addition to the table.
BUFFERED_BYTES = 8 << 20
# The end of an IPC stream: https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format
END = b"\xff\xff\xff\xff\0\0\0\0"


@dataclass(frozen=True)
class Scatter:
    """A table to be scattered: `keys` is int64[n], one per row; rows of a key keep their order."""

    table: pa.Table
    keys: np.ndarray


def write_scatter(content: Scatter, file: BinaryIO) -> Ranges:
    """Writes the streams of all keys in ascending order and returns the offset table."""
    keys = np.asarray(content.keys, dtype=np.int64)
    order = np.argsort(keys, kind="stable")
    table = content.table.take(pa.array(order)).combine_chunks()
    distinct, starts = np.unique(keys[order], return_index=True)
    stops = np.append(starts, len(keys))[1:]
    bounds = list(zip(distinct.tolist(), starts.tolist(), stops.tolist(), strict=True))
    mean = table.nbytes // max(1, len(bounds))
    compression = "zstd" if mean >= COMPRESSED_BYTES else None
    # Compressing the rows of one key takes less time than waking threads for them.
    options = pa.ipc.IpcWriteOptions(compression=compression, use_threads=False)
    head = memoryview(table.schema.serialize())
    keys_at_once = max(1, BUFFERED_BYTES // max(1, mean))
    ranges, offset = [], 0
    for first in range(0, len(bounds), keys_at_once):
        # One stream is cut into one per key: opening and closing each costs twice its rows.
        sink, ends = pa.BufferOutputStream(), [len(head)]
        chosen = bounds[first : first + keys_at_once]
        with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
            for _, start, stop in chosen:
                writer.write_table(table.slice(start, stop - start))
                ends.append(sink.tell())
        written = memoryview(sink.getvalue())
        streams = [b"".join((head, written[a:b], END)) for a, b in pairwise(ends)]
        file.write(b"".join(streams))
        for (key, start, stop), data in zip(chosen, streams, strict=True):
            digest = xxhash.xxh3_64_intdigest(data)
            ranges.append(Range(key, offset, len(data), stop - start, digest))
            offset += len(data)
    return Ranges.of(ranges)


def read_range(data: bytes | memoryview, of: Range, where: str) -> pa.Table:
    """Checks and opens the bytes of one range.

    Raises:
        NightrankError: E_CORRUPT where length or digest differ from the offset table.
    """
    digest = xxhash.xxh3_64_intdigest(data)
    if len(data) != of.length or digest != of.xxh3:
        what = f"scatter range {of.key}: expected xxh3 {of.xxh3:016x}, found {digest:016x}"
        raise NightrankError("E_CORRUPT", what, where, "run `nightrank verify` to find all damage")
    return pa.ipc.open_stream(pa.py_buffer(data)).read_all()
