"""Writes Parquet with the settings of every table of the lake."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

# DuckDB and Spark read fastest at about 128k rows a row group; sizes measured in ARCHITECTURE.md.
ROW_GROUP_ROWS = 131_072


@dataclass(frozen=True)
class Batches:
    """A table too large for memory: its schema and an iterator over its pieces."""

    schema: pa.Schema
    pieces: Iterable[pa.Table | pa.RecordBatch]


def footer_of(path: str) -> str:
    """xxh3-64 (hex) of a file's footer: schema and page offsets, which no page checksum covers.

    Args:
        path: of a local file.
    """
    with open(path, "rb") as file:
        return footer_digest(file)


def footer_digest(file: BinaryIO) -> str:
    """As `footer_of`, of an open file; an arbitrary digest for a file without a footer."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 8))
    length = int.from_bytes(file.read(8)[:4], "little")
    file.seek(max(0, size - 8 - length))
    digest = xxhash.xxh3_64_hexdigest(file.read())
    file.seek(0)
    return digest


def write_parquet(content: Batches, file: BinaryIO) -> int:
    """Writes Parquet with page checksums and a page index; returns the rows written.

    zstd at level 3; dictionary encoding only for columns with few values: on ids and scores it
    costs about 40 % in size.
    """
    few = [
        n for n in content.schema.names if n in ("rank", "status", "reason", "vertical", "policy")
    ]
    rows = 0
    with pq.ParquetWriter(
        file,
        content.schema,
        compression="zstd",
        compression_level=3,
        use_dictionary=few or False,
        write_page_index=True,
        write_page_checksum=True,
        store_schema=True,
    ) as writer:
        for piece in content.pieces:
            table = pa.Table.from_batches([piece]) if isinstance(piece, pa.RecordBatch) else piece
            if table.num_rows:
                writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
                rows += table.num_rows
    return rows
