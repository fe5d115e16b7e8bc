"""Suggests the settings of an input by its first rows: column names, types and ids."""

from __future__ import annotations

from dataclasses import dataclass, field

from nightrank.config import column_names
from nightrank.config.schema import ColumnType, Source
from nightrank.diagnosis.first_rows import FirstRows
from nightrank.inputs.raw import Wanted, id_name

# Column names of public collections and exports, the likelier first.
USUAL = {
    "id": (
        *("docid", "docno", "doc-id", "document_id", "documentid", "pid", "passage_id", "qid"),
        *("query-id", "queryid", "question_id", "topic_id", "corpus-id", "uid", "uuid", "key"),
        *("identifier", "url"),
    ),
    "text": (
        *("body", "content", "contents", "passage", "document", "question", "query", "abstract"),
        *("article", "description", "query_text", "sentence", "segment"),
    ),
    "title": ("headline", "heading", "subject", "name"),
    "vertical": ("category", "domain", "topic", "section", "type", "label"),
}
# The most distinct values of a column of categories.
CATEGORIES = 20


@dataclass(frozen=True)
class Suggestion:
    """The suggested settings of one input.

    Attributes:
        columns: the file's names by ours, where they are not the default ones.
        names: the file's names by ours, of all columns that were recognised.
        attributes: types of the further columns that can be attributes, by name.
        verticals: values of the queries' vertical, sorted; empty for a corpus.
        notes: what looks wrong, one sentence each, without the text of a row.
    """

    columns: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, ColumnType] = field(default_factory=dict)
    verticals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def suggest(kind: str, rows: FirstRows, judged: set[str] | None = None) -> Suggestion:
    """Suggests settings by the first rows of an input.

    Args:
        kind: `corpus` or `queries`.
        rows: its beginning.
        judged: the query ids of the judgements, for queries.
    """
    wanted = Wanted.of(kind, Source(path="any"))
    names: dict[str, str] = {}
    columns: dict[str, str] = {}
    notes: list[str] = []
    for key, candidates in wanted.names.items():
        ours = "id" if key == id_name(kind) else key
        default = next((name for name in candidates if name in rows.columns), None)
        name = default or _guess(ours, rows, set(names.values()))
        if name is not None:
            names[ours] = name
        elif key not in wanted.optional:
            notes.append(f"no column looks like the {ours}: set {kind}.columns")
        if name is not None and default is None:
            columns[ours] = name
    if kind == "queries":
        notes += _check_ids("query", rows, names, judged)
    else:
        notes += _check_ids("document", rows, names, None)
    attributes: dict[str, ColumnType] = {}
    reserved: list[str] = []
    for name, declared in rows.types.items():
        if name in names.values():
            continue
        try:
            column_names.check_attributes([*attributes, name])
            attributes[name] = declared
        except ValueError:
            reserved.append(name)
    if reserved:
        listed = ", ".join(map(repr, reserved))
        notes.append(f"columns that cannot be attributes under these names: {listed}")
    verticals = rows.columns.get(names.get("vertical", ""), [])
    distinct = tuple(sorted({str(value) for value in verticals if value not in (None, "")}))
    return Suggestion(columns, names, attributes, distinct, tuple(notes))


def _guess(ours: str, rows: FirstRows, used: set[str]) -> str | None:
    """The file's column that is most likely the column `ours`; None without a likely one."""
    free = {name.strip().casefold(): name for name in rows.columns if name not in used}
    for usual in USUAL[ours]:
        name = free.get(usual)
        if name is None or name not in rows.types:
            continue
        values = {value for value in rows.columns[name] if value not in (None, "")}
        if ours == "vertical" and not 2 <= len(values) <= CATEGORIES:
            continue
        return name
    strings = [name for name in free.values() if rows.types.get(name) == "string"]
    if ours == "text" and strings:  # The longest one, if it holds words.
        longest = max(strings, key=lambda name: sum(len(str(v or "")) for v in rows.columns[name]))
        if any(" " in str(value or "") for value in rows.columns[longest]):
            return longest
    return None


def _check_ids(
    what: str, rows: FirstRows, names: dict[str, str], judged: set[str] | None
) -> list[str]:
    """Notes on ids that look wrong, without quoting one."""
    if "id" not in names:
        return []
    ids = rows.columns[names["id"]]
    column, count = repr(names["id"]), len(ids)
    notes = []
    if empty := sum(value in (None, "") for value in ids):
        notes.append(f"{empty} of the first {count} {what} ids ({column}) are empty")
    filled = [str(value) for value in ids if value not in (None, "")]
    if repeated := len(filled) - len(set(filled)):
        notes.append(f"{repeated} of the first {count} {what} ids ({column}) are repeated")
    if rows.types.get(names["id"]) == "float64":
        notes.append(f"{what} ids ({column}) are fractions, such as 7.0: write whole numbers")
    if judged is not None and filled and not judged & set(filled):
        notes.append(f"none of the first {len(filled)} {what} ids ({column}) is in the judgements")
    return notes
