"""Training groups from ranked lists and judgements: one positive, and hard negatives.

A negative is a document that a first stage ranked for the query and that is not judged relevant.
With several first stages their lists are interleaved, so that negatives come from all of them.

Knows nothing about how the lists were retrieved, about texts, or about the model to be trained.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

NEAR_DUPLICATE_JACCARD = 0.9

RankedList = Sequence[tuple[str, float]]
"""(doc_id, score), best first."""


@dataclass(frozen=True)
class Group:
    """One positive and the negatives to draw from, hardest first."""

    query_id: str
    positive: str
    negatives: tuple[str, ...]


def mine(
    candidates: Sequence[Mapping[str, RankedList]],
    qrels: Mapping[str, Mapping[str, int]],
    *,
    max_negatives: int,
    guard_ratio: float | None,
    same_text: Callable[[str, str], bool] = lambda first, second: False,
) -> list[Group]:
    """Builds one group for each pair that is judged relevant.

    Args:
        candidates: for each first stage, its ranked list per query; scores of the first of them
            guard against false negatives.
        qrels: grades per query and document; above 0 is relevant.
        max_negatives: at most this many negatives per group.
        guard_ratio: an unjudged document whose score reaches this share of the positive's is left
            out, since it is probably relevant; None keeps all. A positive that the first stage
            missed leaves nothing out.
        same_text: whether two documents are copies; a copy of a positive is no negative.

    Returns:
        Groups in the order of the qrels; those without any negative are left out.
    """
    groups: list[Group] = []
    for query_id, grades in qrels.items():
        positives = [doc_id for doc_id, grade in grades.items() if grade > 0]
        guarding = dict(candidates[0].get(query_id, ())) if candidates else {}
        ranked = _interleaved(c.get(query_id, ()) for c in candidates)
        for positive in positives:
            limit = float("inf")
            if guard_ratio is not None and positive in guarding:
                limit = guard_ratio * guarding[positive]
            negatives = [
                doc_id
                for doc_id in ranked
                if grades.get(doc_id, 0) <= 0
                and (doc_id in grades or guarding.get(doc_id, float("-inf")) < limit)
                and not any(same_text(doc_id, other) for other in positives)
            ]
            if negatives:
                groups.append(Group(query_id, positive, tuple(negatives[:max_negatives])))
    return groups


def _interleaved(lists: Iterable[RankedList]) -> list[str]:
    """Distinct doc_ids of several lists, rank by rank."""
    remaining = [[doc_id for doc_id, _ in ranked] for ranked in lists]
    longest = max((len(ranked) for ranked in remaining), default=0)
    seen: dict[str, None] = {}
    for rank in range(longest):
        for ranked in remaining:
            if rank < len(ranked):
                seen.setdefault(ranked[rank])
    return list(seen)


def normalise(text: str) -> str:
    """Lower case, words only, single spaces: the form in which queries are compared."""
    return " ".join(re.findall(r"\w+", text.lower()))


def near_duplicates(texts: Mapping[str, str], reported: Iterable[str]) -> set[str]:
    """The training queries that nearly duplicate a query of a set that scores are reported on.

    Args:
        texts: training queries by id.
        reported: texts of all reported queries.

    Returns:
        Ids whose normalised text equals a reported one's, or whose set of words has a Jaccard
        similarity of at least 0.9 with one.
    """
    reported_words = [frozenset(normalise(text).split()) for text in reported]
    by_word: dict[str, list[int]] = {}
    for position, words in enumerate(reported_words):
        for word in words:
            by_word.setdefault(word, []).append(position)
    duplicates: set[str] = set()
    for query_id, text in texts.items():
        words = frozenset(normalise(text).split())
        # Two texts that share 9 words in 10 share one of any (size // 10 + 1) words: look up only
        # the rarest of these.
        rarest = sorted(words, key=lambda word: len(by_word.get(word, ())))
        near = {p for word in rarest[: len(words) // 10 + 1] for p in by_word.get(word, ())}
        if any(_jaccard(words, reported_words[p]) >= NEAR_DUPLICATE_JACCARD for p in near):
            duplicates.add(query_id)
    return duplicates


def _jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Shared words over all words; two empty sets are equal."""
    union = len(first | second)
    return len(first & second) / union if union else 1.0
