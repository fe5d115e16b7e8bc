"""Scatter files: one table split by a small integer key, each key's rows readable by themselves.

A producer writes one file whatever the number of consumers, so that objects grow with producers
plus consumers and never with their product. The file is a run of Arrow IPC streams (zstd), one per
key; the offset table travels in the completion record, with an xxh3-64 digest per range, since a
range read cannot be checked against the whole file's sha256.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import xxhash

from pipelines.errors import NightrankError
from pipelines.storage.ranges import Range, Ranges


@dataclass(frozen=True)
class Scatter:
    """A table to be scattered: `keys` is int64, one per row; rows of a key keep their order."""

    table: pa.Table
    keys: np.ndarray


def write_scatter(content: Scatter, file: BinaryIO) -> Ranges:
    """Writes all keys' streams in ascending order of key and returns the offset table."""
    keys = np.asarray(content.keys, dtype=np.int64)
    order = np.argsort(keys, kind="stable")
    table = content.table.take(pa.array(order)).combine_chunks()
    distinct, starts = np.unique(keys[order], return_index=True)
    stops = np.append(starts, len(keys))[1:]
    # A key's few rows are compressed sooner than threads are woken for them.
    options = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
    ranges, offset = [], 0
    for key, start, stop in zip(distinct.tolist(), starts.tolist(), stops.tolist(), strict=True):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
            writer.write_table(table.slice(start, stop - start))
        data = sink.getvalue()
        file.write(data)
        ranges.append(Range(key, offset, data.size, stop - start, xxhash.xxh3_64_intdigest(data)))
        offset += data.size
    return Ranges.of(ranges)


def read_range(data: bytes | memoryview, of: Range, where: str) -> pa.Table:
    """Checks and opens the bytes of one range.

    Raises:
        NightrankError: E_CORRUPT where length or digest differ from the offset table.
    """
    found = xxhash.xxh3_64_intdigest(data)
    if len(data) != of.length or found != of.xxh3:
        what = f"scatter range {of.key}: expected xxh3 {of.xxh3:016x}, found {found:016x}"
        raise NightrankError("E_CORRUPT", what, where, "run `nightrank verify` to find all damage")
    return pa.ipc.open_stream(pa.py_buffer(data)).read_all()
