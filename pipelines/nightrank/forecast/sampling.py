"""How many rows an input has, and some of them: all of a small one, a few thousand of a large one.

An input of up to `WHOLE_BYTES` is read to its end: its counts are exact, duplicates and all. Of a
larger one a few splits are read at their beginning: rows come from the footers of Parquet files, of
text files from the bytes of a row. Identical texts and repeated ids of a large input show only when
it is read; until then every row counts as another.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightrank.config.schema import Corpus, Queries
from nightrank.datasets.judgements import load_qrels
from nightrank.errors import NightrankError
from nightrank.inputs.bundles import bundled
from nightrank.inputs.formats import read_split
from nightrank.inputs.parquet_footer import PlainFooter
from nightrank.inputs.splits import InputFile, Split
from nightrank.inputs.validation import accepted_schema, validate
from nightrank.storage.filesystem import connect

# Half a second to read and check on one core; gzip and Parquet decode to some four times as much.
WHOLE_BYTES = 32 << 20
# Splits that are sampled, and the bytes of each that the length of a row is estimated from.
SPLITS, PIECE_BYTES = 8, 4 << 20
FOOTERS = 64


@dataclass(frozen=True)
class Sample:
    """One input, counted or estimated.

    Attributes:
        rows: rows of all files.
        accepted: rows that pass the checks (and are judged, where only those count).
        kept: documents, or query_ids: accepted rows without repeated ids.
        distinct: documents, or distinct query texts.
        whole: whether all of it was read: the counts are exact then.
        read: rows that were read.
        table: accepted rows without repeated ids, at most `wanted`, evenly spread.
        seconds_per_row: reading, checking and hashing on one core.
        size: bytes of the files.
        files: their number.
        bundles: what one task reads each.
    """

    rows: int
    accepted: int
    kept: int
    distinct: int
    whole: bool
    read: int
    table: pa.Table
    seconds_per_row: float
    size: int
    files: int
    bundles: int


def sample_input(
    source: Corpus | Queries,
    splits: tuple[Split, ...],
    options: dict[str, Any],
    wanted: int,
    qrels: str | None = None,
) -> Sample:
    """Reads an input, or the beginnings of some of its splits.

    Args:
        source: the section of the config.
        splits: as planned.
        options: storage options.
        wanted: rows of the sample at most.
        qrels: judgements that limit the queries, where only judged ones are ranked.

    Raises:
        NightrankError: E_EMPTY without a usable row; else as `formats.read_split`.
    """
    kind = "corpus" if isinstance(source, Corpus) else "queries"
    files = tuple({split.file.url: split.file for split in splits}.values())
    size = sum(file.size for file in files)
    judged = pc.unique(load_qrels(qrels, options)["query_id"]) if qrels else None
    whole = size <= WHOLE_BYTES
    parts, began = [accepted_schema(kind, source).empty_table()], time.process_time()
    read = passed = 0
    for rows, good, accepted in _rows(kind, source, splits, options, 0 if whole else wanted):
        read += rows
        passed += good
        if judged is not None:
            accepted = accepted.filter(pc.is_in(accepted.column(0), judged))
        parts.append(accepted)
    seconds = time.process_time() - began
    table = pa.concat_tables(parts).combine_chunks()
    accepted = table.num_rows
    if not accepted and (whole or judged is None):
        what = f"the {kind} hold no usable row in {read} that were read"
        do = f"check {kind}.path and {kind}.columns"
        raise NightrankError("E_EMPTY", what, source.path, do)
    table = _unrepeated(table, isinstance(source, Corpus))
    kept, distinct, total = table.num_rows, table.num_rows, read
    if kind == "queries" and whole:
        distinct = pc.count_distinct(table["query_hash"]).as_py()
    if not whole:
        total = max(read, _estimated_rows(files, options))
        accepted = round(total * passed / max(1, read))
        if judged is not None:
            accepted = min(accepted, len(judged))
        kept = distinct = accepted
    if table.num_rows > wanted:
        at = np.linspace(0, table.num_rows - 1, wanted).round().astype(np.int64)
        table = table.take(pa.array(at))
    per_row = seconds / max(1, read)
    return Sample(
        total,
        accepted,
        kept,
        distinct,
        whole,
        read,
        table,
        per_row,
        size,
        len(files),
        len(bundled(splits)),
    )


def _rows(
    kind: str,
    source: Corpus | Queries,
    splits: tuple[Split, ...],
    options: dict[str, Any],
    wanted: int,
) -> Iterator[tuple[int, int, pa.Table]]:
    """Rows read, how many passed, and those of them that are taken; all where `wanted` is 0."""
    chosen = splits
    if wanted:
        at = np.unique(np.linspace(0, len(splits) - 1, SPLITS).round().astype(int))
        chosen = tuple(splits[i] for i in at)
    for split in chosen:
        left = -(-wanted // len(chosen))
        for batch in read_split(_beginning(split) if wanted else split, kind, source, options):
            accepted, refused = validate(batch, kind, source)
            good = accepted.num_rows
            if wanted:  # A batch is up to 8,192 rows, more than one split's share.
                accepted = accepted.slice(0, left)
            yield good + refused.num_rows, good, accepted
            left -= accepted.num_rows
            if wanted and left <= 0:
                break


def _beginning(split: Split) -> Split:
    """The first bytes of a split of plain JSONL, where a reader may stop; else the split."""
    file = split.file
    if file.format != "jsonl" or file.compression or split.stop - split.start <= PIECE_BYTES:
        return split
    return Split(file, "bytes", split.start, split.start + PIECE_BYTES)


def _unrepeated(table: pa.Table, is_corpus: bool) -> pa.Table:
    """One row of every id; of a change feed those that delete are left out."""
    if "op" in table.column_names:
        table = table.filter(pc.equal(table["op"], "upsert"))
    ids = table.column(0).combine_chunks()
    coded = ids.dictionary_encode()
    codes = (coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded).indices
    numbers = codes.to_numpy()
    if is_corpus:  # The last row of an id counts.
        _, first = np.unique(numbers[::-1], return_index=True)
        at = np.sort(len(numbers) - 1 - first)
    else:
        at = np.sort(np.unique(numbers, return_index=True)[1])
    return table.take(pa.array(at))


def _estimated_rows(files: tuple[InputFile, ...], options: dict[str, Any]) -> int:
    """Rows of all files, from footers or from the length of rows in some of them."""
    count = FOOTERS if files[0].format == "parquet" else SPLITS
    at = np.unique(np.linspace(0, len(files) - 1, count).round().astype(int))
    looked = [files[i] for i in at]
    rows = sum(_rows_of(file, options) for file in looked)
    return round(rows * sum(file.size for file in files) / max(1, sum(f.size for f in looked)))


def _rows_of(file: InputFile, options: dict[str, Any]) -> float:
    """Rows of one file: exact for Parquet, else by the bytes of its first rows."""
    filesystem, place = connect(file.url, options)
    with filesystem.open(place, "rb") as stream:
        if file.format == "parquet":
            return float(pq.ParquetFile(PlainFooter(stream, file.size)).metadata.num_rows)
        raw = stream.read(PIECE_BYTES)
    piece = _decoded(raw, file.compression) if file.compression else raw
    if file.format in ("jsonl", "tsv"):
        rows = piece.count(b"\n")
    else:
        csv.field_size_limit(PIECE_BYTES * 64)
        rows = sum(1 for _ in csv.reader(io.StringIO(piece.decode("utf-8", "replace"))))
    return max(1, rows) * file.size / max(1, len(raw))


def _decoded(raw: bytes, compression: str) -> bytes:
    """What the beginning of a compressed file decodes to; it breaks off where the bytes do."""
    parts = []
    stream = pa.CompressedInputStream(pa.BufferReader(raw), compression)
    try:
        while chunk := stream.read(1 << 16):
            parts.append(chunk)
    except (OSError, pa.ArrowException):
        pass
    return b"".join(parts)
