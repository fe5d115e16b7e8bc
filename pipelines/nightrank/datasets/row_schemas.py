"""Schemas of rows that depend on the declared columns of an input, and the ids of documents."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from nightrank.config.schema import Corpus, Queries
from nightrank.errors import NightrankError
from nightrank.inputs.validation import accepted_schema
from nightrank.storage import buckets, ordinals, schemas
from nightrank.storage.scatter import Scatter


def ids_schema(source: Corpus | Queries) -> pa.Schema:
    """`schemas.IDS`, of a change feed with two columns more."""
    feed = isinstance(source, Corpus) and source.feed
    return schemas.FEED_IDS if feed else schemas.IDS


def check_shards(count: int) -> None:
    """Refuses more document shards than an ordinal can tell apart.

    Raises:
        NightrankError: E_USAGE.
    """
    if count > ordinals.MAX_DOCUMENT_SHARDS:
        what = f"{count} document shards, at most {ordinals.MAX_DOCUMENT_SHARDS} fit an ordinal"
        raise NightrankError("E_USAGE", what, "layout.document_shard_rows", "raise it")


def ids(documents: pa.Table, shard: int) -> Scatter:
    """The ids of a document shard; `row` is the ordinal without its segment."""
    rows = np.arange(documents.num_rows, dtype=np.int64)
    places = pa.array(ordinals.pack(0, shard, rows))
    columns = [documents["doc_id"], documents["content_hash"], places]
    if "sequence" not in documents.column_names:
        return buckets.scatter(pa.table(columns, schema=schemas.IDS), documents["doc_id"])
    columns += [documents["sequence"], pa.array(np.zeros(len(rows), bool))]
    return buckets.scatter(pa.table(columns, schema=schemas.FEED_IDS), documents["doc_id"])


def documents_schema(source: Corpus) -> pa.Schema:
    """doc_id, title, text, content_hash and the attributes; of a feed also its `sequence`."""
    schema = accepted_schema("corpus", source)
    return pa.schema([field for field in schema if field.name not in ("row", "op")])


def attributes_schema(source: Queries) -> pa.Schema:
    """The declared attributes of the queries, typed."""
    fixed = ("query_id", "text", "query_hash", "vertical", "row")
    return pa.schema([f for f in accepted_schema("queries", source) if f.name not in fixed])
