"""TREC files: judgements in, runs out.

Qrels come in two forms, told apart by the first line: TREC's `query_id iteration doc_id relevance`,
separated by white space, and BEIR's tab-separated table under the header
`query-id corpus-id score`. Either may be gzipped.

Knows nothing about: where files lie. It reads and writes open files.
"""

from __future__ import annotations

import gzip
from typing import IO, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightrank.errors import NightrankError

REPAIR = "repair the judgements, or leave evaluate.qrels out"
QRELS_SCHEMA = pa.schema(
    [("query_id", pa.string()), ("doc_id", pa.string()), ("relevance", pa.int32())]
)
GZIP_MAGIC = b"\x1f\x8b"
# Rows of a run formatted at once: bounds the text in memory to some tens of megabytes.
RUN_BLOCK_ROWS = 250_000
WHITE = r"[ \t\r\f\v]+"


def read_qrels(file: IO[Any], name: str = "qrels") -> pa.Table:
    """Reads judgements.

    Args:
        file: an open file, of text or of bytes, gzipped bytes included.
        name: what errors call it.

    Returns:
        `QRELS_SCHEMA`, in the file's order; a judgement that is repeated with the same relevance is
        kept once.

    Raises:
        NightrankError: E_SCHEMA with the line's number for a line that is not of the file's form, a
            relevance that is not an integer, or a document judged twice with different relevance;
            E_EMPTY for a file without judgements.
    """
    content = file.read()
    raw = content.encode() if isinstance(content, str) else bytes(content)
    if raw.startswith(GZIP_MAGIC):
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError) as error:
            raise NightrankError("E_SCHEMA", f"damaged gzip: {error}", name, REPAIR) from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise NightrankError("E_SCHEMA", "not UTF-8", f"{name}, line {line}", REPAIR) from None
    lines = pa.array(text.split("\n"), pa.large_string())
    number = np.arange(1, len(lines) + 1)
    filled = pc.not_equal(pc.utf8_trim_whitespace(lines), "")
    lines, number = lines.filter(filled), number[filled.to_numpy(zero_copy_only=False)]
    beir = len(lines) > 0 and lines[0].as_py().strip().split("\t")[:2] == ["query-id", "corpus-id"]
    if beir:
        lines, number = lines[1:], number[1:]
    if not len(lines):
        raise NightrankError("E_EMPTY", "no judgements", name, REPAIR)
    table = _parse(lines, number, beir, name)
    return _distinct(table, number, name)


def write_run(table: pa.Table, file: BinaryIO, tag: str) -> None:
    """Writes a run: `query_id Q0 doc_id rank score tag`, one line per row, in the table's order.

    Scores have 9 significant digits, which tell any two float32 apart: trec_eval, which sorts by
    score and ignores the rank, derives the same ranks.

    Args:
        table: columns `query_id`, `doc_id` string, `rank` int32, `score` float32.
        file: open for writing bytes.
        tag: the run's name, without white space.

    Raises:
        NightrankError: E_SCHEMA for a query_id or doc_id with white space in it (or empty), which
            this format cannot hold.
    """
    if not tag or tag.split() != [tag]:
        raise ValueError(f"a run's tag must not be empty or hold white space, found {tag!r}")
    for column in ("query_id", "doc_id"):
        bad = pc.fill_null(pc.match_substring_regex(table[column], r"^$|[\s\x0b]"), True)
        if pc.any(bad).as_py():
            row = pc.index(bad, True).as_py()
            raise NightrankError(
                "E_SCHEMA",
                f"the TREC format cannot hold the {column} {table[column][row].as_py()!r}",
                f"row {row}",
                "export Parquet instead, or ids without white space",
            )
    for batch in table.to_batches(max_chunksize=RUN_BLOCK_ROWS):
        score = batch["score"].to_numpy(zero_copy_only=False).astype(np.float64)
        digits = pa.array(np.char.mod("%.9g", score).tolist(), pa.string())
        lines = pc.binary_join_element_wise(
            batch["query_id"].cast(pa.string()),
            "Q0",
            batch["doc_id"].cast(pa.string()),
            batch["rank"].cast(pa.string()),
            digits,
            tag + "\n",
            " ",
        )
        file.write("".join(lines.to_pylist()).encode())


def _parse(lines: pa.Array, number: NDArray[np.int64], beir: bool, name: str) -> pa.Table:
    if beir:
        fields = pc.split_pattern(pc.utf8_rtrim(lines, "\r"), "\t")
        width, columns, form = 3, (0, 1, 2), "query-id<TAB>corpus-id<TAB>score"
    else:
        fields = pc.split_pattern_regex(pc.utf8_trim_whitespace(lines), WHITE)
        width, columns, form = 4, (0, 2, 3), "query_id iteration doc_id relevance"
    wrong = pc.list_value_length(fields).to_numpy() != width
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        found = f"expected {form!r}, found {lines[row].as_py()[:80]!r}"
        raise NightrankError("E_SCHEMA", found, f"{name}, line {number[row]}", REPAIR)
    query_id, doc_id, grade = (pc.list_element(fields, i) for i in columns)
    # Strings of digits within int32; a cast alone would name no line.
    integral = pc.match_substring_regex(grade, r"^[+-]?\d{1,9}$")
    if not pc.all(integral).as_py():
        row = pc.index(integral, False).as_py()
        what = f"relevance must be an integer, found {grade[row].as_py()!r}"
        raise NightrankError("E_SCHEMA", what, f"{name}, line {number[row]}", REPAIR)
    relevance = pc.replace_substring_regex(grade, r"^\+", "").cast(pa.int32())
    parts = [query_id.cast(pa.string()), doc_id.cast(pa.string()), relevance]
    return pa.Table.from_arrays(parts, schema=QRELS_SCHEMA)


def _distinct(table: pa.Table, number: NDArray[np.int64], name: str) -> pa.Table:
    numbered = table.append_column("row", pa.array(np.arange(len(table))))
    groups = numbered.group_by(["query_id", "doc_id"]).aggregate(
        [("relevance", "min"), ("relevance", "max"), ("row", "min"), ("row", "max")]
    )
    if len(groups) == len(table):
        return table
    conflict = groups.filter(pc.not_equal(groups["relevance_min"], groups["relevance_max"]))
    if len(conflict):
        one = conflict.sort_by("row_max").slice(0, 1).to_pylist()[0]
        raise NightrankError(
            "E_SCHEMA",
            f"query {one['query_id']!r}, doc_id {one['doc_id']!r} is judged twice, "
            f"{one['relevance_min']} and {one['relevance_max']}",
            f"{name}, lines {number[one['row_min']]} and {number[one['row_max']]}",
            REPAIR,
        )
    return table.take(pa.array(np.sort(groups["row_min"].to_numpy())))
