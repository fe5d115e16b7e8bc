"""The part of the configuration that says what is read: documents and queries."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from nightrank.config import column_names
from nightrank.config.keys import unknown_names
from nightrank.config.running import Fraction, Section, UserPath

ColumnType = Literal["string", "int64", "float64", "bool", "timestamp", "date32"]
CREDENTIALS = re.compile(r"^[a-z0-9+.-]+://[^/]*@", re.IGNORECASE)


class Source(Section):
    """Where rows come from and what happens to bad ones.

    Attributes:
        path: a file, a folder or a glob; local or s3://. Parquet, JSONL, CSV or TSV, each plain or
            gzip/zstd (by name: `.jsonl.gz`, `.csv.zst`). Links are followed.
        ignore: patterns of files to leave out of a folder or a glob, e.g. `['*.bz2', 'old/*']`,
            from any folder on. A file of unknown format that none of them names is refused.
        columns: our names to the file's names, e.g. `{id: docno, text: body}`. What is not named
            is looked for under the usual names: `_id`, `id`, `doc_id`/`query_id`; `text`; `title`.
        attributes: further columns to carry along, with their Arrow types. Names that Nightrank or
            a reader of its tables uses are refused (`column_names`).
        header: the columns of CSV and TSV files that have no header line, in order, e.g.
            `[id, text]`.
        on_bad_row: `reject` writes the row's place and reason to the rejects; `error` stops.
        on_bad_file: `error` stops at an unreadable file; `reject` leaves the file out, counted.
        max_text_bytes: a longer text (UTF-8 bytes) is rejected as `too_large`.
        reject_budget: share of the rows that may be rejected before the run is refused.
        allow_empty: accept an input without a single row.
    """

    path: UserPath
    format: Literal["auto", "parquet", "jsonl", "csv", "tsv"] = "auto"
    ignore: list[str] = []
    columns: dict[str, str] = {}
    attributes: dict[str, ColumnType] = {}
    header: list[str] = []
    on_bad_row: Literal["reject", "error"] = "reject"
    on_bad_file: Literal["error", "reject"] = "error"
    max_text_bytes: int = Field(default=1 << 20, ge=1, le=1 << 30)
    reject_budget: Fraction = 0.01
    allow_empty: bool = False

    @property
    def typed(self) -> dict[str, ColumnType]:
        """Columns to be read beside id, text and title (or vertical), with their types."""
        return self.attributes

    @model_validator(mode="after")
    def _safe(self) -> Source:
        if CREDENTIALS.match(self.path):
            raise ValueError("a path must not carry credentials; use the AWS credentials chain")
        known = {"id", "text", "title", "vertical"}
        if unknown := set(self.columns) - known:
            raise ValueError(f"columns: {unknown_names(unknown, known)}")
        column_names.check_attributes(self.attributes)
        names = [name.strip() for name in self.header]
        if "" in names or len(set(names)) < len(names):
            raise ValueError("header: expected names that are not empty, each once")
        if names and self.format in ("parquet", "jsonl"):
            raise ValueError(f"header: {self.format} files name their columns themselves")
        return self


class Corpus(Source):
    """The documents.

    Attributes:
        duplicates: of rows with one doc_id, `last` keeps the last by (file order, row) and counts
            the others; `strict` refuses the input when their texts differ.
        empty_text: `reject` or `keep` documents whose text is empty or white space.
        partitions: patterns that input files must match, one file each at least, e.g.
            `[year=2025/*, year=2026/*]`: a part that was not delivered stops the run, where it
            would otherwise take its documents out of the index.
        feed: the input is what changed, not what there is: columns `op` (`upsert` or `delete`) and
            `sequence` (int64) beside the usual ones. Of several rows of an id the highest sequence
            counts, and none that is not above the sequence of the document that stands. What no row
            names stays as it is.
    """

    duplicates: Literal["last", "strict"] = "last"
    empty_text: Literal["reject", "keep"] = "reject"
    partitions: list[str] = []
    feed: bool = False

    @property
    def typed(self) -> dict[str, ColumnType]:
        """See `Source.typed`; a change feed has two columns more."""
        more: dict[str, ColumnType] = {"op": "string", "sequence": "int64"} if self.feed else {}
        return {**self.attributes, **more}

    @model_validator(mode="after")
    def _feed(self) -> Corpus:
        if self.feed and self.duplicates == "strict":
            raise ValueError("duplicates=strict: in a feed the highest sequence of an id counts")
        return self


class Queries(Source):
    """The queries.

    Attributes:
        only_judged: rank only the queries that the qrels judge; the others count as `unselected`.
        on_dup_query: `error` refuses a repeated query_id; `reject` keeps the first.
    """

    only_judged: bool = False
    on_dup_query: Literal["error", "reject"] = "error"
