"""Recall of an approximate index, measured on a sample of the queries.

Knows nothing about: storage, thresholds.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from nightrank.retrieval import ranking
from nightrank.retrieval.first_stage import SCHEMA, Float32, OpenShard, search_group


def recall(
    queries: Float32, shards: list[OpenShard], depth: int, parameters: str = ""
) -> tuple[int, int]:
    """Counts the best `depth` documents that a search finds, and those that an exact search finds.

    Args:
        queries: float32[q, d], a sample: each query is compared with every vector.
        shards: as `search_group`.
        depth: rows of the lists that are compared.
        parameters: FAISS search parameters.

    Returns:
        (found, all), summed over the sample.
    """
    searched = search_group(queries, shards, depth, parameters)
    parts = []
    for shard in (shard for shard in shards if len(shard.ordinals)):
        scores = queries @ shard.vectors.T
        if shard.tombstoned is not None:
            scores[:, shard.tombstoned] = -np.inf
        best = min(depth, scores.shape[1])
        rows = np.argpartition(-scores, best - 1, axis=1)[:, :best].astype(np.int64)
        query = np.repeat(np.arange(len(queries), dtype=np.int32), rows.shape[1])
        row = rows.reshape(-1)
        is_live = np.isfinite(scores[query, row])
        query, row = query[is_live], row[is_live]
        exact = shard.scores(queries, query, row)
        columns = {**shard.columns(query, row), "score": exact}
        parts.append(pa.table(columns).cast(pa.schema(list(SCHEMA)[:4])))
    truth = ranking.merge([*parts, SCHEMA.empty_table()], depth)
    # Tied documents are equally good: a hit is a document that reaches the last true score.
    last = np.full(len(queries), np.inf, np.float32)
    np.minimum.at(last, truth["query"].to_numpy(), truth["score"].to_numpy())
    hits = int((searched["score"].to_numpy() >= last[searched["query"].to_numpy()]).sum())
    return min(hits, truth.num_rows), truth.num_rows
