"""Held-out queries: drawing them, and scoring their candidates with the network in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nightrank.models.engines.torch_engine import TOKEN_BUDGET_CPU
from nightrank.models.protocols import Tokenizer
from nightrank.storage.tokens import Tokens
from nightrank.training.groups import Ids
from nightrank.training.judged_collections import Collection
from nightrank.training.loop import score_pairs
from nightrank.training.selection import JudgedQuery
from nightrank.training.trainee import Trainee


@dataclass(frozen=True)
class HeldOutQuery:
    """A held-out query with its n candidates.

    Attributes:
        query: token ids of the query.
        documents: token ids of each candidate, best first.
        gains: float64 [n], the grade of each candidate, 0 where it is not judged.
        ideal: grades of all relevant documents, candidates or not, in descending order.
        first_stage: float64 [n], scores of the first stage.
    """

    query: Ids
    documents: list[Ids]
    gains: NDArray[np.float64]
    ideal: tuple[float, ...]
    first_stage: NDArray[np.float64]


def hold_out(collection: Collection, dropped: set[str], count: int, seed: int) -> list[str]:
    """Draws query_ids among the judged queries.

    Args:
        collection: of the queries.
        dropped: query_ids that are not drawn.
        count: how many to draw; all where there are fewer.
        seed: fixes the draw.
    """
    eligible = [q for q in collection.queries if q in collection.qrels and q not in dropped]
    order = np.random.default_rng([seed, 7]).permutation(len(eligible))
    return [eligible[int(i)] for i in order[:count]]


def held_out_queries(
    collection: Collection, query_ids: Sequence[str], tokenizer: Tokenizer
) -> list[HeldOutQuery]:
    """The held-out queries of a collection, tokenised.

    Args:
        collection: with candidates.
        query_ids: from `hold_out`.
        tokenizer: the trainee's.
    """
    queries = []
    for query_id in query_ids:
        ranked, grades = collection.candidates[query_id], collection.qrels[query_id]
        doc_ids = [doc_id for doc_id, _ in ranked]
        queries.append(
            HeldOutQuery(
                tokenizer([collection.queries[query_id]]).to_lists()[0],
                list(tokenizer([collection.texts[d] for d in doc_ids]).to_lists()),
                np.array([float(max(0, grades.get(d, 0))) for d in doc_ids]),
                tuple(sorted((float(g) for g in grades.values() if g > 0), reverse=True)),
                np.array([score for _, score in ranked]),
            )
        )
    return queries


def score_held_out(
    trainee: Trainee, queries: Sequence[HeldOutQuery], depth: int, bf16: bool
) -> list[JudgedQuery]:
    """Scores the first `depth` candidates of every query.

    Args:
        trainee: the network.
        queries: held-out queries.
        depth: candidates per query.
        bf16: autocast to bfloat16.
    """
    documents = Tokens.from_lists(d for query in queries for d in query.documents[:depth])
    sizes = [min(depth, len(query.documents)) for query in queries]
    rows = np.repeat(np.arange(len(queries)), sizes)
    pairs = np.stack([rows, np.arange(len(rows))], axis=1).astype(np.int32)
    query_tokens = Tokens.from_lists(query.query for query in queries)
    trainee.network.eval()
    with torch.inference_mode():
        scores = score_pairs(trainee, query_tokens, documents, pairs, TOKEN_BUDGET_CPU, bf16)
    parts = np.split(scores.double().cpu().numpy(), np.cumsum(sizes)[:-1])
    return [
        JudgedQuery(query.gains[:size], query.ideal, query.first_stage[:size], part)
        for query, size, part in zip(queries, sizes, parts, strict=True)
    ]
