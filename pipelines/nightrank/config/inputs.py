"""The part of the configuration that says what is read: documents and queries."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from nightrank.config import column_names
from nightrank.config.keys import unknown_names
from nightrank.config.values import PLAN, Bytes, Fraction, Section, UserPath

ColumnType = Literal["string", "int64", "float64", "bool", "timestamp", "date32"]
CREDENTIALS = re.compile(r"^[a-z0-9+.-]+://[^/]*@", re.IGNORECASE)


class Source(Section):
    """Where rows are read from, and what happens to bad ones."""

    path: UserPath = Field(
        json_schema_extra={PLAN: "through the names and the content of the files"},
        description="A file, a folder or a glob, local or `s3://`. Formats: Parquet, JSONL, CSV, "
        "TSV; each plain, gzip or zstd, recognised by name (`.jsonl.gz`, `.csv.zst`). Symbolic "
        "links are followed. A file of unknown format is an error, unless `ignore` names it.",
    )
    format: Literal["auto", "parquet", "jsonl", "csv", "tsv"] = Field(
        default="auto", description="Format of the files. `auto` takes it from each file's name."
    )
    ignore: list[str] = Field(
        default=[],
        description="Patterns of files to leave out of a folder or a glob, e.g. "
        "`['*.bz2', 'old/*']`. A pattern may start at any folder.",
    )
    columns: dict[str, str] = Field(
        default={},
        description="Names of columns in the files, by Nightrank's names `id`, `text`, `title` and "
        "`vertical`, e.g. `{id: docno, text: body}`. A column that is not named here is searched "
        "under its usual names: `_id`, `id`, `doc_id` or `query_id`; `text`; `title`; `vertical`.",
    )
    attributes: dict[str, ColumnType] = Field(
        default={},
        description="Further columns to read, with their types, e.g. `{year: int64}`. A name that "
        "Nightrank or a reader of its tables uses is an error.",
    )
    header: list[str] = Field(
        default=[],
        description="Columns of CSV and TSV files that have no header line, in order, e.g. "
        "`[id, text]`.",
    )
    on_bad_row: Literal["reject", "error"] = Field(
        default="reject",
        description="`reject` writes the file, row and reason of a bad row to the table of "
        "rejects. `error` ends the run.",
    )
    on_bad_file: Literal["error", "reject"] = Field(
        default="error",
        description="`error` ends the run at an unreadable file. `reject` leaves the file out and "
        "counts it.",
    )
    max_text_bytes: Bytes = Field(
        default=1 << 20,
        ge=1,
        le=1 << 30,
        description="Rows with a longer text, in UTF-8, are rejected as `too_large`.",
    )
    reject_budget: Fraction = Field(
        default=0.01,
        description="Share of the rows that may be rejected. Above it the run is refused.",
    )
    allow_empty: bool = Field(
        default=False, description="Whether an input without any row is accepted."
    )

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
    """The documents: where they are read from, and what happens to bad rows."""

    duplicates: Literal["last", "strict"] = Field(
        default="last",
        description="Of several rows with one id, `last` keeps the last by file order and row, and "
        "counts the others. `strict` refuses the input if their texts differ.",
    )
    empty_text: Literal["reject", "keep"] = Field(
        default="reject",
        description="Whether documents with an empty or blank text are rejected or kept.",
    )
    partitions: list[str] = Field(
        default=[],
        description="Patterns that must each match a file of the input, e.g. "
        "`[year=2025/*, year=2026/*]`. If a part was not delivered, the run ends, instead of "
        "deleting its documents from the index.",
    )
    feed: bool = Field(
        default=False,
        description="Whether the input is a change feed: rows with the columns `op` (`upsert` or "
        "`delete`) and `sequence` (int64) beside the usual ones. Of several rows with one id the "
        "highest sequence counts, if it is above the sequence of the indexed document. Documents "
        "without a row do not change.",
    )

    @property
    def typed(self) -> dict[str, ColumnType]:
        """See `Source.typed`; a change feed has two more columns."""
        more: dict[str, ColumnType] = {"op": "string", "sequence": "int64"} if self.feed else {}
        return {**self.attributes, **more}

    @model_validator(mode="after")
    def _feed(self) -> Corpus:
        if self.feed and self.duplicates == "strict":
            raise ValueError("duplicates=strict: in a feed the highest sequence of an id counts")
        return self


class Queries(Source):
    """The queries: where they are read from, and what happens to bad rows."""

    only_judged: bool = Field(
        default=False,
        description="Whether only the queries that `evaluate.qrels` judges are ranked. The others "
        "are counted as `unselected`.",
    )
    on_dup_query: Literal["error", "reject"] = Field(
        default="error",
        description="`error` refuses an input with a repeated query id. `reject` keeps the first "
        "row and rejects the others.",
    )
