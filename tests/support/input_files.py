"""Writes small input files in every format and reads them back through the product's door."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from nightrank.config.schema import Corpus, Queries, Source
from nightrank.inputs.formats import read_split
from nightrank.inputs.splits import Split, list_inputs, plan_splits
from nightrank.inputs.validation import validate

SUFFIXES = ["parquet", "pq"] + [
    f"{text}{packed}"
    for text in ("jsonl", "ndjson", "json", "csv", "tsv")
    for packed in ("", ".gz", ".gzip", ".zst", ".zstd")
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes rows as the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = path.name.split(".")[1:]
    if parts[0] in ("parquet", "pq"):
        pq.write_table(pa.Table.from_pylist(rows), path, write_page_checksum=True)
        return path
    if parts[0] == "tsv":
        lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
        data = "".join("\t".join(line) + "\n" for line in lines).encode()
    elif parts[0] == "csv":
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        data = buffer.getvalue().encode()
    else:
        data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    path.write_bytes(packed(data, parts[-1]))
    return path


def packed(data: bytes, suffix: str) -> bytes:
    """Compressed as the suffix says."""
    if suffix in ("gz", "gzip"):
        return gzip.compress(data)
    return zstandard.compress(data) if suffix in ("zst", "zstd") else data


def source_of(kind: str, path: Any = "unused", **settings: Any) -> Source:
    """A corpus or queries section."""
    return (Corpus if kind == "corpus" else Queries)(path=str(path), **settings)


def read_splits(
    splits: tuple[Split, ...],
    kind: str,
    source: Source,
    options: dict[str, Any] | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Accepted rows and rejects of splits, in order, with `row` as it is in each split."""
    accepted: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    for split in splits:
        for batch in read_split(split, kind, source, options):
            assert len(batch.rows) == batch.columns.num_rows <= 8192
            good, bad = validate(batch, kind, source)
            good.validate(full=True)
            assert all(len(d) <= 200 for d in bad["detail"].to_pylist())
            accepted += good.to_pylist()
            rejects += bad.to_pylist()
    return accepted, rejects


def read(
    path: Any,
    kind: str = "corpus",
    target: int | None = None,
    options: dict[str, Any] | None = None,
    **settings: Any,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Accepted rows and rejects of a path."""
    source = source_of(kind, path, **settings)
    files = list_inputs(source.path, source.format, options)
    limit = {} if target is None else {"target_bytes": target}
    splits = plan_splits(files, options, by_file=source.on_bad_file == "reject", **limit)
    return read_splits(splits, kind, source, options)


def reasons(rejects: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """Row and reason of each reject."""
    return [(reject["row"], reject["reason"]) for reject in rejects]
