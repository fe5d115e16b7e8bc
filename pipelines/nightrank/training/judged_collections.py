"""Reads the collections for training.

Files are in the BEIR layout: a corpus and queries as JSON lines (gzipped or not) or Parquet with
`_id`, `title` and `text`, and judgments as tab-separated query-id, corpus-id, score under a header.
A teacher's scores are Parquet as Nightrank publishes it: query_id, doc_id and a score column.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nightrank.errors import NightrankError
from nightrank.models.text.passage import passage_text
from nightrank.training.mining import RankedList

Qrels = dict[str, dict[str, int]]
"""Grade by query and document; above 0 is relevant."""


class Row(TypedDict):
    """A document or a query; other fields of the file are not used."""

    _id: str
    text: str
    title: NotRequired[str | None]


class RankedLists(Mapping[str, RankedList]):
    """Ranked lists by query_id, stored as columns: 25,000 lists of 100 as tuples take gigabytes.

    Args:
        query_ids: the queries.
        doc_ids: the documents.
        query: int [rows], positions in `query_ids`, ascending; within a query best first.
        document: int [rows], positions in `doc_ids`.
        score: float [rows].
    """

    def __init__(
        self,
        query_ids: Sequence[str],
        doc_ids: Sequence[str],
        query: NDArray[Any],
        document: NDArray[Any],
        score: NDArray[Any],
    ) -> None:
        self._positions = {query_id: i for i, query_id in enumerate(query_ids)}
        self._starts = np.searchsorted(query, np.arange(len(query_ids) + 1))
        self._doc_ids, self._document, self._score = doc_ids, document, score

    def __getitem__(self, query_id: str) -> RankedList:
        position = self._positions[query_id]
        part = slice(self._starts[position], self._starts[position + 1])
        rows, scores = self._document[part].tolist(), self._score[part].tolist()
        return [(self._doc_ids[row], score) for row, score in zip(rows, scores, strict=True)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)


@dataclass(frozen=True)
class Collection:
    """A collection in memory.

    Attributes:
        name: its name in reports.
        texts: passage text by doc_id, in the order of the corpus.
        queries: text by query_id, of queries that are judged or that a teacher scored.
        qrels: the judgements.
        teacher: a teacher's list by query_id, best first; empty without a teacher.
        lists: ranked lists by query_id, one mapping per first stage; added by the job.
        candidates: the first stage's final list by query_id, which is reranked; added by the job.
    """

    name: str
    texts: dict[str, str]
    queries: dict[str, str]
    qrels: Qrels
    teacher: dict[str, RankedList] = field(default_factory=dict)
    lists: Sequence[Mapping[str, RankedList]] = ()
    candidates: Mapping[str, RankedList] = field(default_factory=dict)


def read_rows(path: Path) -> list[Row]:
    """Rows of a Parquet file, or of a JSONL file, gzipped or not; a null text becomes empty.

    Raises:
        NightrankError: E_CONFIG, where the file cannot be read, or a row has no `_id` and `text`.
    """
    try:
        if path.suffix == ".parquet":
            rows = pq.read_table(path).to_pylist()
        else:
            stored = path.read_bytes()
            text = gzip.decompress(stored) if path.suffix == ".gz" else stored
            # Not splitlines: it splits at characters that may occur in a text.
            rows = [json.loads(line) for line in text.decode("utf-8").split("\n") if line.strip()]
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise NightrankError(
            "E_CONFIG", f"cannot read rows: {error}", str(path), "correct data and its paths"
        ) from None
    return [_checked_row(row, f"{path}, row {number}") for number, row in enumerate(rows, 1)]


def _checked_row(row: Any, where: str) -> Row:
    """A row with an id and a text.

    Raises:
        NightrankError: E_CONFIG, without the row's content.
    """
    columns = row if isinstance(row, dict) else {}
    text = columns.get("text", ...)
    if not isinstance(columns.get("_id"), str) or not isinstance(text, str | None):
        what = "no document or query: expected _id (a string) and text (a string or null)"
        raise NightrankError("E_CONFIG", what, where, "correct the row, or the paths to the files")
    return Row(_id=columns["_id"], text=text or "", title=columns.get("title"))


def read_qrels(path: Path) -> Qrels:
    """Grades by query and document.

    Raises:
        NightrankError: E_CONFIG, where the file cannot be read.
    """
    grades: Qrels = {}
    line = 0
    try:
        with path.open(encoding="utf-8", newline="") as file:
            # TSV has no quoting: an id may contain a double quote.
            for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                line += 1
                if row and row[0] != "query-id":
                    grades.setdefault(row[0], {})[row[1]] = int(row[2])
    except OSError as error:
        what, do = f"cannot read judgements: {error}", "correct data and its paths"
        raise NightrankError("E_CONFIG", what, str(path), do) from None
    except (ValueError, IndexError, csv.Error):  # Their messages quote the file.
        what = "no judgement: expected query-id, corpus-id and an integer score, separated by tabs"
        do = "correct the line, or the paths in qrels"
        raise NightrankError("E_CONFIG", what, f"{path}, line {line}", do) from None
    return grades


def read_teacher(path: Path, column: str) -> dict[str, RankedList]:
    """A teacher's lists, best first.

    Args:
        path: a Parquet file, or a folder of them: `query_id`, `doc_id` and the scores.
        column: of the scores; rows without a score are left out.

    Raises:
        NightrankError: E_CONFIG, where the file cannot be read or lacks a column.
    """
    try:
        table = ds.dataset(path, format="parquet").to_table(["query_id", "doc_id", column])
    except (OSError, ValueError) as error:
        what = f"cannot read a teacher's scores: {str(error).splitlines()[0]:.160}"
        do = "give Parquet with query_id, doc_id and the column that teacher_column names"
        raise NightrankError("E_CONFIG", what, str(path), do) from None
    lists: dict[str, list[tuple[str, float]]] = {}
    for row in table.drop_null().to_pylist():
        lists.setdefault(row["query_id"], []).append((row["doc_id"], float(row[column])))
    return {q: sorted(ranked, key=lambda pair: -pair[1]) for q, ranked in lists.items()}


def read_collection(
    name: str,
    corpus: Path,
    queries: Path,
    qrels: Sequence[Path],
    teacher: dict[str, RankedList] | None = None,
) -> Collection:
    """Reads a collection, with the queries that are judged or that the teacher scored.

    Raises:
        NightrankError: E_CONFIG, where a file cannot be read, or the teacher names a document that
            the corpus lacks.
    """
    grades: Qrels = {}
    for path in qrels:
        grades |= read_qrels(path)
    texts = {row["_id"]: passage_text(row.get("title"), row["text"]) for row in read_rows(corpus)}
    # A pair needs text on both sides: an empty document is no negative.
    texts = {doc_id: text for doc_id, text in texts.items() if text.strip()}
    teacher_lists = teacher or {}
    kept_queries = {
        row["_id"]: row["text"]
        for row in read_rows(queries)
        if row["_id"] in grades or row["_id"] in teacher_lists
    }
    for query_id, ranked in teacher_lists.items():
        if missing := next((doc_id for doc_id, _ in ranked if doc_id not in texts), None):
            what = f"the teacher scored document {missing!r} of query {query_id!r}"
            do = "use the corpus that the teacher scored"
            raise NightrankError("E_CONFIG", f"{what}, the corpus lacks it", str(corpus), do)
    kept_grades = {
        query_id: {d: grade for d, grade in of_query.items() if d in texts}
        for query_id, of_query in grades.items()
        if query_id in kept_queries
    }
    kept_lists = {q: ranked for q, ranked in teacher_lists.items() if q in kept_queries}
    return Collection(name, texts, kept_queries, kept_grades, kept_lists)
