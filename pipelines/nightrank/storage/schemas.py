"""Arrow schemas of every dataset; the schema is the contract of a file.

| dataset | file | one row per |
|---|---|---|
| ingest | ids, rejects; rows | accepted row (scattered by id hash), rejected row; accepted query |
| delta | dropped, kept | superseded row, row of a new or changed document (by input split) |
| delta | tombstones | document of an earlier segment that was deleted or replaced (by id hash) |
| extract | rows | kept row |
| documents | documents, ids | document; its id, hash and ordinal (scattered by id hash) |
| documents (merged) | origin | document's ordinal before its segment was merged |
| distinct | queries, members | distinct query text, query_id |
| tokens, terms | tokens | document or distinct query |
| embeddings | vectors, rejects | document or distinct query, one without a usable vector |
| templates | statistics | term of the corpus |
| index | rows, postings | vector in the FAISS file, in its order; term of these documents |
| search | candidates | candidate of a query, of one group of index shards |
| carry, merge | pool, bounds | candidate of a carried list; distinct query: its list's bound |
| carry | search | distinct query to be searched in all segments |
| merge | candidates | candidate of a query, the first `depth` |
| merge, rank | scatter | candidate to be scored (scattered by document shard) |
| rerank | scores, store | scored pair (by query shard); the same as later runs look it up |
| rank | pool, ranked, queries, rejects | scored candidate, published result, query_id, reject |
| rank | lists | query_id with its kept list (scattered by id hash) |
| changes | changes | query_id whose published list changed |
| rank (not the last) | lost | candidate without a finite score, of this step or an earlier one |
"""

from __future__ import annotations

import pyarrow as pa

from nightrank.config.column_names import score_column

# Rows travel between stages as (query, ordinal): `query` is the row within its query shard.
IDS = pa.schema(
    [
        ("id", pa.string()),
        ("content_hash", pa.binary(16)),
        ("row", pa.int64()),
    ]
)
# Of a change feed; each id has the sequence number of its row.
FEED_IDS = pa.schema([*IDS, ("sequence", pa.int64()), ("removed", pa.bool_())])
DROPPED = pa.schema([("row", pa.int64()), ("id", pa.string()), ("reason", pa.string())])
KEPT = pa.schema([("row", pa.int64()), ("content_hash", pa.binary(16))])
TOMBSTONES = pa.schema([("ordinal", pa.int64())])
REJECTS = pa.schema(
    [
        ("kind", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("id", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
TOKENS = pa.schema([("tokens", pa.list_(pa.int32()))])
ROW_REJECTS = pa.schema([("row", pa.int32()), ("reason", pa.string())])
INDEX_ROWS = pa.schema([("ordinal", pa.int64()), ("doc_id", pa.string())])
STATISTICS = pa.schema([("term", pa.int32()), ("documents", pa.int64())])
POSTINGS = pa.schema(
    [("term", pa.int32()), ("rows", pa.list_(pa.int32())), ("impacts", pa.list_(pa.float32()))]
)
CANDIDATES = pa.schema(
    [
        ("query", pa.int32()),
        ("ordinal", pa.int64()),
        ("doc_id", pa.string()),
        ("score", pa.float32()),
        ("rank", pa.int32()),
    ]
)
# Of a hybrid first stage: both scores of a row of either list.
BOTH_SCORES = pa.schema(
    [("first_stage_dense_score", pa.float32()), ("first_stage_bm25_score", pa.float32())]
)


def partials(hybrid: bool) -> pa.Schema:
    """Lists before fusion: ordinals, ids, both scores, and whether vector search found the row."""
    places = [field for field in CANDIDATES if field.name not in ("score", "rank")]
    if not hybrid:
        return pa.schema([*places, BOTH_SCORES.field(0)])
    return pa.schema([*places, *BOTH_SCORES, ("found_by_vector", pa.bool_())])


def bounds(hybrid: bool) -> pa.Schema:
    """For every query and list: the score and doc_id down to which the list is complete.

    Row i is the shard's query i; a score of minus infinity marks a list of all documents.
    """
    fields = []
    for field in list(BOTH_SCORES)[: 2 if hybrid else 1]:
        fields += [(f"{field.name}_bound", pa.float32()), (f"{field.name}_bound_id", pa.string())]
    return pa.schema(fields)


def candidates(hybrid: bool) -> pa.Schema:
    """First-stage lists, sorted by `score`: the fused score of a hybrid first stage."""
    return pa.schema([*CANDIDATES, *(BOTH_SCORES if hybrid else ())])


PAIRS = pa.schema([("query", pa.int32()), ("row", pa.int32()), ("rank", pa.int32())])
LIST = pa.list_(pa.struct([("doc_id", pa.string()), ("rank", pa.int32()), ("score", pa.float32())]))
LISTS = pa.schema([("query_id", pa.string()), ("digest", pa.string()), ("list", LIST)])
CHANGES = pa.schema(
    [
        ("query_id", pa.string()),
        ("op", pa.string()),
        ("old_digest", pa.string()),
        ("new_digest", pa.string()),
        ("list", LIST),
    ]
)
SEARCH = pa.schema([("row", pa.int32())])
LOST = pa.schema([("query", pa.int32()), ("doc_id", pa.string()), ("reason", pa.string())])
SCORES = pa.schema([("query", pa.int32()), ("ordinal", pa.int64()), ("score", pa.float32())])
STORE = pa.schema([("query_hash", pa.binary(16)), ("row", pa.int32()), ("score", pa.float32())])


def vectors(dimension: int) -> pa.Schema:
    """Embeddings: the document's or query's row in its shard, and its float32 vector."""
    return pa.schema([("row", pa.int32()), ("vector", pa.list_(pa.float32(), dimension))])


def members(attributes: pa.Schema) -> pa.Schema:
    """Query ids of a shard's distinct queries; `query` is the distinct query's row."""
    fixed = [("query_id", pa.string()), ("query", pa.int32()), ("vertical", pa.string())]
    return pa.schema([*pa.schema(fixed), *attributes])


def pool(steps: list[str], hybrid: bool) -> pa.Schema:
    """Full-depth lists after the last step; `rerank_score` is null below the last step's depth.

    `first_stage_score` is the score that the first stage was sorted by; of a hybrid first stage the
    two scores that it was fused from follow.
    """
    return pa.schema(
        [
            ("query", pa.int32()),
            ("ordinal", pa.int64()),
            ("doc_id", pa.string()),
            ("rank", pa.int32()),
            ("score", pa.float32()),
            ("rerank_score", pa.float32()),
            ("first_stage_rank", pa.int32()),
            ("first_stage_score", pa.float32()),
            *(BOTH_SCORES if hybrid else ()),
            *((score_column(step), pa.float32()) for step in steps if len(steps) > 1),
        ]
    )


def ranked(steps: list[str], hybrid: bool, columns: pa.Schema) -> pa.Schema:
    """The published rows, sorted by (query_id, rank).

    The list is sorted by `score`; `rerank_score` is the reranker's raw output; ranks start at 1;
    `columns` are the configured document columns.
    """
    shared = [field for field in pool(steps, hybrid) if field.name not in ("query", "ordinal")]
    return pa.schema([("query_id", pa.string()), *shared, *columns])


def queries(attributes: pa.Schema) -> pa.Schema:
    """The published queries table: the outcome of every accepted query.

    `status` is `ranked`, `no_candidates` or `rejected` (then with a reason); `policy` names the
    rerank steps that were applied.
    """
    fixed = [
        ("query_id", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("num_candidates", pa.int32()),
        ("vertical", pa.string()),
        ("policy", pa.string()),
    ]
    return pa.schema([*pa.schema(fixed), *attributes])
