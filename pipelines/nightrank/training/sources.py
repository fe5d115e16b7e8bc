"""Builds a collection's training groups as token ids, from judgements or from a teacher's lists."""

from __future__ import annotations

from collections.abc import Mapping

from nightrank.models.protocols import Tokenizer
from nightrank.training.groups import Example, Ids, Source
from nightrank.training.judged_collections import Collection
from nightrank.training.mining import mine


def training_source(
    collection: Collection,
    left_out: set[str],
    tokenizer: Tokenizer,
    *,
    weight: float,
    max_negatives: int,
    guard_ratio: float | None,
) -> Source:
    """A collection's groups: of its teacher's lists where it has a teacher, else mined.

    Args:
        collection: with ranked lists, or with a teacher.
        left_out: query_ids not to train on.
        tokenizer: the trainee's; each text is tokenised once.
        weight: the collection's share of the groups.
        max_negatives: see `mining.mine`.
        guard_ratio: see `mining.mine`.
    """
    documents = _ids_by_key(collection.texts, tokenizer)
    queries = _ids_by_key(collection.queries, tokenizer)
    if collection.teacher:
        examples = [
            Example(
                queries[query_id],
                [documents[doc_id] for doc_id, _ in ranked],
                [score for _, score in ranked],
            )
            for query_id, ranked in collection.teacher.items()
            if query_id not in left_out and len(ranked) > 1
        ]
        return Source(collection.name, examples, weight)
    groups = mine(
        collection.lists,
        {q: grades for q, grades in collection.qrels.items() if q not in left_out},
        max_negatives=max_negatives,
        guard_ratio=guard_ratio,
        same_text=lambda a, b: collection.texts[a] == collection.texts[b],
    )
    examples = [
        Example(queries[g.query_id], [documents[d] for d in (g.positive, *g.negatives)])
        for g in groups
    ]
    return Source(collection.name, examples, weight)


def _ids_by_key(texts: Mapping[str, str], tokenizer: Tokenizer) -> dict[str, Ids]:
    """Token ids of every text."""
    return dict(zip(texts, tokenizer(list(texts.values())).to_lists(), strict=True))
