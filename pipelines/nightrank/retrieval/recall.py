"""Recall of an approximate index, measured on a sample of the queries that it is searched for.

Knows nothing about: storage, what is done about it.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from nightrank.retrieval import ranking
from nightrank.retrieval.first_stage import SCHEMA, Float32, OpenShard, search_group


def recall(
    queries: Float32, shards: list[OpenShard], depth: int, parameters: str = ""
) -> tuple[int, int]:
    """How many of the truly best `depth` documents a search finds, and how many there are.

    Args:
        queries: float32[q, d], a sample: every one is compared with every vector.
        shards: as `search_group`.
        depth: how deep lists are compared.
        parameters: FAISS search parameters.

    Returns:
        (found, all), over all queries of the sample.
    """
    found = search_group(queries, shards, depth, parameters)
    parts = []
    for shard in (shard for shard in shards if len(shard.ordinals)):
        scores = queries @ shard.vectors.T
        if shard.dead is not None:
            scores[:, shard.dead] = -np.inf
        best = min(depth, scores.shape[1])
        rows = np.argpartition(-scores, best - 1, axis=1)[:, :best].astype(np.int64)
        query = np.repeat(np.arange(len(queries), dtype=np.int32), rows.shape[1])
        row = rows.reshape(-1)
        alive = np.isfinite(scores[query, row])
        query, row = query[alive], row[alive]
        exact = shard.scores(queries, query, row)
        columns = {**shard.table(query, row), "score": exact}
        parts.append(pa.table(columns).cast(pa.schema(list(SCHEMA)[:4])))
    best_of = ranking.merge([*parts, SCHEMA.empty_table()], depth)
    # At a tie either document is as good: what counts is how many reach the last true score.
    last = np.full(len(queries), np.inf, np.float32)
    np.minimum.at(last, best_of["query"].to_numpy(), best_of["score"].to_numpy())
    hits = int((found["score"].to_numpy() >= last[found["query"].to_numpy()]).sum())
    return min(hits, best_of.num_rows), best_of.num_rows
