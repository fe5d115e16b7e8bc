"""Arrow schemas of every dataset, column by column; the schema is the contract of a file.

| dataset | file | one row per |
|---|---|---|
| ingest | rows, ids, rejects | accepted row, accepted row (scattered by id hash), rejected row |
| delta | dropped | accepted row that another row supersedes (scattered by input split) |
| documents | documents | document |
| distinct | queries, members | distinct query text, query_id |
| tokens, terms | tokens | document or distinct query |
| embeddings | vectors, rejects | document or distinct query, one without a usable vector |
| templates | statistics | term of the corpus |
| index | rows, postings | vector in the FAISS file, in its order; term of these documents |
| search, merge | candidates | candidate of a query |
| merge, rank | scatter | candidate to be scored (scattered by document shard) |
| rerank | scores | scored pair (scattered by query shard) |
| rank | pool, ranked, queries, rejects | scored candidate, published result, query_id, reject |
| rank (not the last) | lost | candidate without a finite score, of this step or an earlier one |
"""

from __future__ import annotations

import pyarrow as pa

# Rows travel between stages as (query, ordinal): `query` is the row within its query shard.
IDS = pa.schema(
    [
        ("id", pa.string()),
        ("content_hash", pa.binary(16)),
        ("row", pa.int64()),
    ]
)
DROPPED = pa.schema([("row", pa.int64()), ("id", pa.string()), ("reason", pa.string())])
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
# Of a hybrid first stage: a row of either list, both scores beside it.
BOTH_SCORES = pa.schema(
    [("first_stage_dense_score", pa.float32()), ("first_stage_bm25_score", pa.float32())]
)
PARTIALS = pa.schema([*(f for f in CANDIDATES if f.name not in ("score", "rank")), *BOTH_SCORES])


def candidates(hybrid: bool) -> pa.Schema:
    """First-stage lists; `score` is what they are sorted by, the fused one where hybrid."""
    return pa.schema([*CANDIDATES, *(BOTH_SCORES if hybrid else ())])


PAIRS = pa.schema([("query", pa.int32()), ("row", pa.int32())])
LOST = pa.schema([("query", pa.int32()), ("doc_id", pa.string())])
SCORES = pa.schema([("query", pa.int32()), ("ordinal", pa.int64()), ("score", pa.float32())])


def vectors(dimension: int) -> pa.Schema:
    """Embeddings: the document's or query's row in its shard, and its float32 vector."""
    return pa.schema([("row", pa.int32()), ("vector", pa.list_(pa.float32(), dimension))])


def members(attributes: pa.Schema) -> pa.Schema:
    """Query ids of a shard's distinct queries; `query` is the distinct query's row."""
    fixed = [("query_id", pa.string()), ("query", pa.int32()), ("vertical", pa.string())]
    return pa.schema([*pa.schema(fixed), *attributes])


def pool(steps: list[str], hybrid: bool) -> pa.Schema:
    """Full-depth lists after the last step; `rerank_score` is null below the last step's depth.

    `first_stage_score` is what the first stage was sorted by; where that was hybrid, the two scores
    that it was fused from stand beside it.
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
            *((f"{step}_score", pa.float32()) for step in steps if len(steps) > 1),
        ]
    )


def ranked(steps: list[str], hybrid: bool, columns: pa.Schema) -> pa.Schema:
    """The published rows, sorted by (query_id, rank).

    `score` is what the list is sorted by; `rerank_score` is the reranker's raw output; ranks start
    at 1; `columns` are the document columns that were asked for.
    """
    shared = [field for field in pool(steps, hybrid) if field.name not in ("query", "ordinal")]
    return pa.schema([("query_id", pa.string()), *shared, *columns])


def queries(attributes: pa.Schema) -> pa.Schema:
    """The published queries table: what became of every accepted query.

    `status` is `ranked`, `no_candidates` or `rejected` (then with a reason); `policy` names the
    steps that were applied.
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
