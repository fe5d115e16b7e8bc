"""Writes TREC runs.

Knows nothing about: paths. It writes to open files.
"""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.errors import NightrankError

# Rows formatted at once: limits the text in memory to some tens of megabytes.
RUN_BLOCK_ROWS = 250_000


def write_run(table: pa.Table, file: BinaryIO, tag: str) -> None:
    """Writes a run: `query_id Q0 doc_id rank score tag`, one line per row, in the table's order.

    Scores have 9 significant digits, which tell any two float32 apart: trec_eval, which sorts by
    score and ignores the rank, derives the same ranks.

    Args:
        table: columns `query_id`, `doc_id` string, `rank` int32, `score` float32.
        file: open for writing bytes.
        tag: the run's name, without white space.

    Raises:
        NightrankError: E_SCHEMA for an empty query_id or doc_id, or one with white space, which
            this format cannot hold.
    """
    if not tag or tag.split() != [tag]:
        raise ValueError(f"expected a tag without white space, found {tag!r}")
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
