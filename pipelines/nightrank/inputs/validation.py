"""Checks raw rows: they become accepted rows, whose texts all later stages can use, or rejects.

`content_hash` and `query_hash` are blake2b-128: cryptographically collision-resistant, at about
1 GB/s, much faster than every later step on a text.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.config.schema import Corpus, Source
from nightrank.inputs.attributes import ATTRIBUTE_TYPES, canonical, cast_attribute
from nightrank.inputs.formats import bad_row
from nightrank.inputs.raw import RawBatch, id_name, rejects_schema
from nightrank.storage.hashes import blake2b

MAX_ID_BYTES = 512
# A row with several faults is rejected for the first in this order.
REASONS = (
    "null_id",
    "empty_id",
    "id_too_long",
    "null_text",
    "too_large",
    "empty_text",
    "bad_attribute",
)


def corpus_schema(source: Source) -> pa.Schema:
    """Accepted documents: doc_id, title, text, content_hash, row (in the split), attributes."""
    return pa.schema(
        [
            ("doc_id", pa.string()),
            ("title", pa.string()),
            ("text", pa.string()),
            ("content_hash", pa.binary(16)),
            ("row", pa.int64()),
            *((name, ATTRIBUTE_TYPES[t]) for name, t in source.typed.items()),
        ]
    )


def queries_schema(source: Source) -> pa.Schema:
    """Accepted queries: query_id, text, query_hash, vertical, row (in the split), attributes."""
    return pa.schema(
        [
            ("query_id", pa.string()),
            ("text", pa.string()),
            ("query_hash", pa.binary(16)),
            ("vertical", pa.string()),
            ("row", pa.int64()),
            *((name, ATTRIBUTE_TYPES[t]) for name, t in source.typed.items()),
        ]
    )


def accepted_schema(kind: str, source: Source) -> pa.Schema:
    """`corpus_schema` or `queries_schema`, by kind."""
    return corpus_schema(source) if kind == "corpus" else queries_schema(source)


def validate(batch: RawBatch, kind: str, source: Source) -> tuple[pa.Table, pa.Table]:
    """Checks a batch.

    Any string is an id: slashes, dots, line feeds and NUL are accepted, as are control characters
    in texts. A title counts as text for `too_large`; a null title or vertical becomes empty.

    Args:
        batch: from `formats.read_split`.
        kind: `corpus` or `queries`.
        source: policies and attributes.

    Returns:
        Accepted rows (`accepted_schema`) and rejects (`rejects_schema`, including the reader's),
        each in row order. Together they are all rows of the batch.

    Raises:
        NightrankError: E_SCHEMA at the first bad row, under `on_bad_row: error`.
    """
    raw, n = batch.columns, len(batch.rows)
    empty = pa.array([""] * n, pa.string())
    extra = "title" if kind == "corpus" else "vertical"
    id, text = raw.column(id_name(kind)), raw.column("text")
    other = pc.fill_null(raw.column(extra), "") if extra in raw.schema.names else empty
    reason = np.full(n, -1, dtype=np.int64)
    detail = np.full(n, "", dtype=object)

    def refuse(name: str, mask: np.ndarray, what: str, size: np.ndarray | None = None) -> None:
        fresh = np.flatnonzero(mask & (reason < 0))
        reason[fresh] = REASONS.index(name)
        for i in fresh:  # Only the few bad rows.
            detail[i] = what if size is None else f"{what}, found {size[i]}"

    removed = np.zeros(n, dtype=bool)
    if isinstance(source, Corpus) and source.feed:  # A deletion needs no text.
        removed = _mask(pc.equal(raw.column("op"), "delete"))
        text = pc.if_else(pa.array(removed), "", text)
    id_bytes, text_bytes, other_bytes = _bytes(id), _bytes(text), _bytes(other)
    limit = source.max_text_bytes
    refuse("null_id", _mask(pc.is_null(id)), "the id is null or missing")
    refuse("empty_id", id_bytes == 0, "the id is empty")
    over = id_bytes > MAX_ID_BYTES
    refuse("id_too_long", over, f"id: expected at most {MAX_ID_BYTES} bytes", id_bytes)
    refuse("null_text", _mask(pc.is_null(text)), "the text is null or missing")
    refuse("too_large", text_bytes > limit, f"text: expected at most {limit} bytes", text_bytes)
    what = f"{extra}: expected at most {limit} bytes"
    refuse("too_large", other_bytes > limit, what, other_bytes)
    if not (isinstance(source, Corpus) and source.empty_text == "keep"):
        blank = (text_bytes == 0) | _mask(pc.utf8_is_space(text))
        refuse("empty_text", blank & ~removed, "the text is empty or white space")
    attributes = {}
    for name, declared in source.typed.items():
        attributes[name], bad = cast_attribute(raw.column(name), declared)
        refuse("bad_attribute", bad, f"{name}: the value is not {declared}")
    if isinstance(source, Corpus) and source.feed:
        known = _mask(pc.is_in(attributes["op"], pa.array(["upsert", "delete"])))
        refuse("bad_attribute", ~known, "op: expected upsert or delete")
        refuse("bad_attribute", _mask(pc.is_null(attributes["sequence"])), "sequence: null")

    good = pa.array(reason < 0)
    rejects = _rejects(batch, id, id_bytes, reason, detail)
    if rejects.num_rows and source.on_bad_row == "error" and rejects["row"][0].as_py() >= 0:
        raise bad_row(rejects, batch.where)
    columns = {
        id_name(kind): id,
        "text": text,
        extra: other,
        "row": batch.rows,
        **attributes,
    }
    columns = {name: array.filter(good) for name, array in columns.items()}
    if kind == "corpus":
        shown = {"title": columns["title"], "text": columns["text"]}
        shown |= {name: columns[name] for name in sorted(source.attributes)}
        columns["content_hash"] = blake2b(canonical(shown))
    else:
        columns["query_hash"] = blake2b(columns["text"])
    schema = accepted_schema(kind, source)
    return pa.table([columns[name] for name in schema.names], schema=schema), rejects


def _bytes(array: pa.Array) -> np.ndarray:
    """int64[n]: bytes of each string, -1 for null."""
    lengths = pc.fill_null(pc.binary_length(array), -1)
    return lengths.to_numpy(zero_copy_only=False).astype(np.int64)


def _mask(array: pa.Array) -> np.ndarray:
    return pc.fill_null(array, False).to_numpy(zero_copy_only=False)


def _rejects(
    batch: RawBatch, id: pa.Array, id_bytes: np.ndarray, reason: np.ndarray, detail: np.ndarray
) -> pa.Table:
    """The reader's rejects and these, in row order; ids that are too long are null."""
    bad = np.flatnonzero(reason >= 0)
    if not len(bad):
        return batch.rejects if batch.rejects.num_rows < 2 else batch.rejects.sort_by("row")
    shown = pc.if_else(pa.array(id_bytes <= MAX_ID_BYTES), id, pa.scalar(None, pa.string()))
    columns = [
        batch.rows.take(pa.array(bad)),
        shown.take(pa.array(bad)),
        pa.array([REASONS[i] for i in reason[bad]], pa.string()),
        pa.array([d[:200] for d in detail[bad]], pa.string()),
    ]
    invalid = pa.table(columns, schema=rejects_schema())
    return pa.concat_tables([batch.rejects, invalid]).sort_by("row")
