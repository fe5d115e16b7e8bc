"""Real queries and documents of mixed lengths, for benchmarks of models."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import beir

QUERY_WORDS, DOCUMENT_WORDS = (5, 15), (20, 300)
DOCUMENTS_OF_EACH = 250
FEWEST_DOCUMENTS = 100
QUICKSTART = Path(__file__).parents[1] / "pipelines" / "nightrank" / "quickstart"


@dataclass(frozen=True)
class Texts:
    queries: list[str]
    documents: list[str]


def mixed(data: Path | None, queries: int, order: random.Random) -> Texts:
    """Queries and documents, about the same number from each collection.

    Args:
        data: collections in BEIR layout; None takes the quickstart's questions and docstrings.
        queries: how many.
        order: random generator that makes the choice.
    """
    pools = [_of_length(*pool) for pool in (_collections(data) if data else [_texts(QUICKSTART)])]
    pools = [pool for pool in pools if pool[0] and len(pool[1]) >= FEWEST_DOCUMENTS]
    if not pools:
        needed = f"{FEWEST_DOCUMENTS} documents of {DOCUMENT_WORDS} words and a query"
        raise SystemExit(f"{data}: no collection has {needed} of {QUERY_WORDS} words")
    asked: list[str] = []
    documents: list[str] = []
    for number, (mine, theirs) in enumerate(pools):
        share = queries // len(pools) + (number < queries % len(pools))
        asked += order.sample(mine, min(share, len(mine)))
        most = DOCUMENTS_OF_EACH if data else len(theirs)
        documents += order.sample(theirs, min(most, len(theirs)))
    return Texts(asked, documents)


def _of_length(queries: list[str], documents: list[str]) -> tuple[list[str], list[str]]:
    def within(texts: list[str], bounds: tuple[int, int]) -> list[str]:
        return [text for text in texts if bounds[0] <= len(text.split()) <= bounds[1]]

    return within(queries, QUERY_WORDS), within(documents, DOCUMENT_WORDS)


def _collections(data: Path) -> Iterator[tuple[list[str], list[str]]]:
    return (_texts(folder) for folder in beir.collections(data))


def _texts(folder: Path) -> tuple[list[str], list[str]]:
    queries = {row["text"] for row in beir.rows(folder, "queries")}
    documents = [
        f"{row.get('title', '')} {row['text']}".strip() for row in beir.rows(folder, "corpus")
    ]
    return sorted(queries), documents
