"""Judgements: which document is relevant to which query.

There are three formats, recognised by the first bytes and the first line: TREC's
`query_id iteration doc_id relevance`, separated by white space; a tab-separated table with a
header, as BEIR's `query-id corpus-id score`; and Parquet with such columns. Text may be compressed
by gzip or zstd. Messages quote no line, since the file may be another one than intended.

Knows nothing about: paths. It reads open files.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt
from numpy.typing import NDArray

from nightrank.errors import NightrankError
from nightrank.inputs.compressed import CHUNK_BYTES, compression_of, decompressed
from nightrank.inputs.raw import BadFile

REPAIR = "repair the judgements, or leave evaluate.qrels out"
QRELS_SCHEMA = pa.schema(
    [("query_id", pa.string()), ("doc_id", pa.string()), ("relevance", pa.int32())]
)
PARQUET_MAGIC = b"PAR1"
WHITE = r"[ \t\r\f\v]+"
# Column names of BEIR, MTEB, ir_datasets, MS MARCO and PyTerrier, in lower case with underscores.
NAMES: dict[str, tuple[str, ...]] = {
    "query_id": ("query_id", "qid", "q_id", "queryid", "query", "topic_id", "topic"),
    "doc_id": (
        "doc_id", "docid", "docno", "did", "document_id", "corpus_id", "pid", "passage_id",
    ),
    "relevance": (
        "relevance", "score", "label", "rel", "grade", "judgment", "judgement", "relevance_label",
    ),
}  # fmt: skip


def read_qrels(file: IO[Any], name: str = "qrels") -> pa.Table:
    """Reads judgements.

    Args:
        file: an open file, of text or of bytes.
        name: of the file, for errors.

    Returns:
        `QRELS_SCHEMA`, in the file's order; a judgement repeated with the same relevance is kept
        once.

    Raises:
        NightrankError: E_SCHEMA with the number of the line (or row) for one with other fields, a
            relevance that is not an integer, or a document judged twice with different relevance;
            E_EMPTY for a file without judgements.
    """
    content = file.read()
    raw = content.encode() if isinstance(content, str) else bytes(content)
    if raw.startswith(PARQUET_MAGIC):
        table, number, unit = *_parquet(raw, name), "row"
    else:
        table, number, unit = *_text(_decompressed(raw, name), name), "line"
    if not table.num_rows:
        raise NightrankError("E_EMPTY", "expected judgements, found none", name, REPAIR)
    return _distinct(table, number, unit, name)


def _decompressed(raw: bytes, name: str) -> bytes:
    stream = decompressed(io.BytesIO(raw), compression_of(raw))
    try:
        return b"".join(iter(lambda: stream.read(CHUNK_BYTES), b""))
    except BadFile as error:
        raise NightrankError("E_SCHEMA", error.detail, name, REPAIR) from None


def _places(names: Sequence[str]) -> list[int] | None:
    """Positions of query, document and relevance among column names; None unless all occur."""
    plain = [name.strip().strip('"').lower().replace("-", "_") for name in names]
    places = [next((plain.index(n) for n in known if n in plain), None) for known in NAMES.values()]
    return None if None in places else [place for place in places if place is not None]


def _text(raw: bytes, name: str) -> tuple[pa.Table, NDArray[np.int64]]:
    """Judgements, and the line number of each."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise NightrankError("E_SCHEMA", "not UTF-8", f"{name}, line {line}", REPAIR) from None
    lines = pa.array(text.split("\n"), pa.large_string())
    number = np.arange(1, len(lines) + 1)
    filled = pc.not_equal(pc.utf8_trim_whitespace(lines), "")
    lines, number = lines.filter(filled), number[filled.to_numpy(zero_copy_only=False)]
    header = lines[0].as_py().rstrip("\r").split("\t") if len(lines) else []
    places = _places(header)
    if places:
        lines, number = lines[1:], number[1:]
        fields = pc.split_pattern(pc.utf8_rtrim(lines, "\r"), "\t")
        width, form = len(header), "those of the header, separated by tabs"
    else:
        places = [0, 2, 3]
        fields = pc.split_pattern_regex(pc.utf8_trim_whitespace(lines), WHITE)
        width, form = 4, "query_id iteration doc_id relevance"
    widths = pc.list_value_length(fields).to_numpy()
    if (wrong := np.flatnonzero(widths != width)).size:
        row = int(wrong[0])
        what = f"expected {width} fields ({form}), found {widths[row]}"
        raise NightrankError("E_SCHEMA", what, f"{name}, line {number[row]}", REPAIR)
    query_id, doc_id, grade = (pc.list_element(fields, place) for place in places)
    return _table(query_id, doc_id, grade, number, "line", name), number


def _parquet(raw: bytes, name: str) -> tuple[pa.Table, NDArray[np.int64]]:
    """Judgements, and the row number of each, from 0."""
    try:
        file = pq.ParquetFile(pa.BufferReader(raw), arrow_extensions_enabled=False)
        names = file.schema_arrow.names
        places = _places(names)
        if places is None:
            shown = ", ".join(names[:12])
            what = f"expected columns query_id, doc_id and relevance, found: {shown or 'none'}"
            raise NightrankError("E_SCHEMA", what, name, "rename them, e.g. as in BEIR's files")
        table = file.read([names[place] for place in places])
        columns = [table[names[place]].combine_chunks() for place in places]
    except (pa.ArrowException, OSError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise NightrankError("E_SCHEMA", f"damaged Parquet: {first}", name, REPAIR) from None
    number = np.arange(len(columns[0]))
    for ours, column in zip(NAMES, columns, strict=True):
        if column.null_count:
            row = pc.index(column.is_null(), True).as_py()
            what = f"expected a {ours}, found null"
            raise NightrankError("E_SCHEMA", what, f"{name}, row {row}", REPAIR)
    query_id, doc_id, grade = (
        _as_text(column, ours, name) for ours, column in zip(NAMES, columns, strict=True)
    )
    return _table(query_id, doc_id, grade, number, "row", name), number


def _as_text(column: pa.Array, ours: str, name: str) -> pa.Array:
    """A Parquet column as strings; whole numbers without a fraction."""
    kind = column.type.value_type if pt.is_dictionary(column.type) else column.type
    if pt.is_floating(kind) and ours == "relevance":
        whole = pc.and_(pc.equal(column, pc.floor(column)), pc.less(pc.abs(column), 1e9))
        number = pc.if_else(pc.fill_null(whole, False), column, 0.0).cast(pa.int64())
        return pc.if_else(whole, number.cast(pa.large_string()), "not an integer")
    if pt.is_boolean(kind) and ours == "relevance":
        return column.cast(pa.int8()).cast(pa.large_string())
    texts = pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind)
    if not texts and not pt.is_integer(kind):
        what = f"{ours}: expected strings or integers, found {kind}"
        raise NightrankError("E_SCHEMA", what, name, REPAIR)
    return column.cast(pa.large_string())


def _table(
    query_id: pa.Array,
    doc_id: pa.Array,
    grade: pa.Array,
    number: NDArray[np.int64],
    unit: str,
    name: str,
) -> pa.Table:
    # Digits that fit int32; a failing cast would not name the line.
    integral = pc.match_substring_regex(grade, r"^[+-]?\d{1,9}$")
    if (row := pc.index(integral, False).as_py()) >= 0:
        what = "relevance: expected an integer of at most 9 digits, found another value"
        raise NightrankError("E_SCHEMA", what, f"{name}, {unit} {number[row]}", REPAIR)
    relevance = pc.replace_substring_regex(grade, r"^\+", "").cast(pa.int32())
    parts = [query_id.cast(pa.string()), doc_id.cast(pa.string()), relevance]
    return pa.Table.from_arrays(parts, schema=QRELS_SCHEMA)


def _distinct(table: pa.Table, number: NDArray[np.int64], unit: str, name: str) -> pa.Table:
    numbered = table.append_column("row", pa.array(np.arange(len(table))))
    groups = numbered.group_by(["query_id", "doc_id"]).aggregate(
        [("relevance", "min"), ("relevance", "max"), ("row", "min"), ("row", "max")]
    )
    if len(groups) == len(table):
        return table
    conflict = groups.filter(pc.not_equal(groups["relevance_min"], groups["relevance_max"]))
    if len(conflict):
        first = conflict.sort_by("row_max").slice(0, 1).to_pylist()[0]
        what = f"query {first['query_id']!r}, doc_id {first['doc_id']!r} is judged twice, "
        what += f"{first['relevance_min']} and {first['relevance_max']}"
        where = f"{name}, {unit}s {number[first['row_min']]} and {number[first['row_max']]}"
        raise NightrankError("E_SCHEMA", what, where, REPAIR)
    return table.take(pa.array(np.sort(groups["row_min"].to_numpy())))
