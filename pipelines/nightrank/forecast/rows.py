"""Rows and scatter keys of every file that a job of a given shape writes."""

from __future__ import annotations

from nightrank.forecast.shape import Shape, units_of
from nightrank.storage import buckets


def rows_each(shape: Shape, depth: int, keep: int) -> dict[tuple[str, str], tuple[int, int]]:
    """Rows and scatter keys of every file, by stage and file; see `storage/schemas.py`.

    Args:
        shape: the job.
        depth: `retrieve.depth`.
        keep: `results.keep`.
    """
    corpus, queries, units = shape.corpus, shape.queries, units_of(shape)
    query_shards = shape.query_shards
    deep = queries.distinct * min(depth, corpus.kept)
    lists = round(queries.distinct * shape.list_rows)
    dropped, lost = corpus.accepted - corpus.kept, corpus.rows - corpus.accepted

    def ids(rows: int, files: int) -> tuple[int, int]:
        each = -(-rows // max(1, files))
        return rows, files * min(each, buckets.BUCKETS // buckets.buckets_per_key(each))

    def split(rows: int, files: int, keys: int) -> tuple[int, int]:
        return rows, files * distinct_keys(rows / max(1, files), keys)

    rows_of: dict[tuple[str, str], tuple[int, int]] = {
        ("ingest corpus", "ids"): ids(corpus.accepted, corpus.splits),
        ("ingest corpus", "rejects"): (lost, 0),
        ("delta corpus", "dropped"): split(dropped, units["delta corpus"], corpus.splits),
        ("delta corpus", "kept"): split(corpus.kept, units["delta corpus"], corpus.splits),
        ("ingest queries", "rows"): split(queries.accepted, queries.splits, buckets.BUCKETS),
        ("ingest queries", "ids"): ids(queries.accepted, queries.splits),
        ("ingest queries", "rejects"): (queries.rows - queries.accepted, 0),
        ("extract", "rows"): (corpus.kept, 0),
        ("segment", "documents"): (corpus.kept, 0),
        ("segment", "ids"): ids(corpus.kept, shape.document_shards),
        ("tokenize documents", "tokens"): (corpus.kept, 0),
        ("terms of documents", "tokens"): (corpus.kept, 0),
        ("embed documents", "vectors"): (corpus.kept, 0),
        ("build index", "rows"): (corpus.kept, 0),
        ("distinct", "queries"): (queries.distinct, 0),
        ("distinct", "members"): (queries.kept, 0),
        ("tokenize queries", "tokens"): (queries.distinct, 0),
        ("terms of queries", "tokens"): (queries.distinct, 0),
        ("embed queries", "vectors"): (queries.distinct, 0),
        ("search", "candidates"): (lists * shape.groups, 0),
        ("merge", "pool"): (lists, 0),
        ("merge", "bounds"): (queries.distinct, 0),
        ("merge", "candidates"): (deep, 0),
    }
    pairs = [step.pairs for step in shape.steps]
    heads = ["merge", *(f"rank {step.name}" for step in shape.steps[:-1])]
    for stage, head, step in zip(heads, pairs, shape.steps, strict=False):
        rows_of[(stage, "scatter")] = split(head, query_shards, shape.document_shards)
        rows_of[(step.name, "scores")] = split(step.pairs, max(1, step.units), query_shards)
        rows_of[(step.name, "store")] = (step.pairs, 0)
        if stage != "merge":
            rows_of[(stage, "pool")] = (deep, 0)
    rows_of |= {
        ("rank", "pool"): (deep, 0),
        ("rank", "ranked"): (queries.kept * min(keep, depth, corpus.kept), 0),
        ("rank", "queries"): (queries.kept, 0),
        ("rank", "lists"): ids(queries.kept, query_shards),
        ("changes", "changes"): (queries.kept, 0),
        ("rejects", "rejects"): (lost + dropped + queries.rows - queries.kept, 0),
    }
    return rows_of


def distinct_keys(rows: float, keys: int) -> int:
    """How many of so many keys some rows at random meet."""
    return round(keys * (1 - (1 - 1 / max(1, keys)) ** rows))
