"""Judged collections for training: reading them, holding queries out, turning them into token ids.

Files are in the BEIR layout: a corpus and queries as JSON lines (gzipped or not) with `_id`,
`title` and `text`, and judgments as tab-separated query-id, corpus-id, score under a header.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import NightrankError
from pipelines.models.inputs import TOKEN_BUDGET_CPU
from pipelines.models.interaction import InteractionReranker
from pipelines.models.mining import RankedList, mine
from pipelines.models.passage import passage_text
from pipelines.models.protocols import Tokenizer
from pipelines.models.selection import Judged
from pipelines.models.splicing import Splicer
from pipelines.models.training import Example, Ids, Source, score_pairs

Qrels = dict[str, dict[str, int]]
"""Grade by query and document; above 0 is relevant."""


@dataclass(frozen=True)
class Collection:
    """A judged collection in memory.

    Attributes:
        name: names it in reports.
        texts: passage text by doc_id, in the order of the corpus.
        queries: text by query_id, judged queries only.
        qrels: the judgments.
        candidates: the first stage's ranked list by query_id; filled by the job.
    """

    name: str
    texts: dict[str, str]
    queries: dict[str, str]
    qrels: Qrels
    candidates: dict[str, RankedList] = field(default_factory=dict)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL file, gzipped or not.

    Raises:
        NightrankError: E_CONFIG, where it cannot be read.
    """
    try:
        packed = path.read_bytes()
        text = gzip.decompress(packed) if path.suffix == ".gz" else packed
        # Not splitlines: a text may hold characters that it takes for line ends.
        return [json.loads(line) for line in text.decode("utf-8").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise NightrankError(
            "E_CONFIG", f"cannot read JSON lines: {error}", str(path), "set data and its paths"
        ) from None


def read_qrels(path: Path) -> Qrels:
    """Grades by query and document.

    Raises:
        NightrankError: E_CONFIG, where the file cannot be read.
    """
    grades: Qrels = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.reader(file, delimiter="\t"):
                if row and row[0] != "query-id":
                    grades.setdefault(row[0], {})[row[1]] = int(row[2])
    except (OSError, ValueError, IndexError) as error:
        raise NightrankError(
            "E_CONFIG", f"cannot read judgments: {error}", str(path), "set data and its paths"
        ) from None
    return grades


def read_collection(name: str, corpus: Path, queries: Path, qrels: Sequence[Path]) -> Collection:
    """Reads a collection, keeping only judged queries.

    Raises:
        NightrankError: E_CONFIG, where a file cannot be read.
    """
    grades: Qrels = {}
    for path in qrels:
        grades |= read_qrels(path)
    texts = {row["_id"]: passage_text(row.get("title"), row["text"]) for row in read_jsonl(corpus)}
    asked = {row["_id"]: row["text"] for row in read_jsonl(queries) if row["_id"] in grades}
    return Collection(name, texts, asked, {q: g for q, g in grades.items() if q in asked})


def hold_out(collection: Collection, dropped: set[str], count: int, seed: int) -> list[str]:
    """`count` query_ids drawn by seed from those not dropped."""
    eligible = [query_id for query_id in collection.queries if query_id not in dropped]
    order = np.random.default_rng([seed, 7]).permutation(len(eligible))
    return [eligible[int(i)] for i in order[:count]]


def training_source(
    collection: Collection,
    qrels: Mapping[str, Mapping[str, int]],
    tokenizer: Tokenizer,
    *,
    weight: float,
    pool: int,
    guard_ratio: float | None,
) -> Source:
    """Mines a collection's candidates and turns the groups into token ids.

    Args:
        collection: with candidates.
        qrels: the judgments to train on.
        tokenizer: makes the ids; each text is tokenised once.
        weight: the collection's share of the groups.
        pool: see `mining.mine`.
        guard_ratio: see `mining.mine`.
    """
    groups = mine(
        [collection.candidates],
        qrels,
        pool=pool,
        guard_ratio=guard_ratio,
        same_text=lambda one, other: collection.texts[one] == collection.texts[other],
    )
    documents = _ids_by_key(collection.texts, tokenizer)
    queries = _ids_by_key(collection.queries, tokenizer)
    examples = [
        Example(queries[g.query_id], documents[g.positive], [documents[n] for n in g.negatives])
        for g in groups
    ]
    return Source(collection.name, examples, weight)


def _ids_by_key(texts: Mapping[str, str], tokenizer: Tokenizer) -> dict[str, Ids]:
    """Token ids of every text."""
    return dict(zip(texts, tokenizer(list(texts.values())).to_lists(), strict=True))


@dataclass(frozen=True)
class Pool:
    """A held-out query's candidates as token ids, with what is known of them."""

    query: Ids
    documents: list[Ids]
    gains: NDArray[np.float64]
    ideal: tuple[float, ...]
    first_stage: NDArray[np.float64]


def dev_pools(collection: Collection, query_ids: Sequence[str], tokenizer: Tokenizer) -> list[Pool]:
    """The candidates of held-out queries."""
    pools = []
    for query_id in query_ids:
        ranked, grades = collection.candidates[query_id], collection.qrels[query_id]
        doc_ids = [doc_id for doc_id, _ in ranked]
        pools.append(
            Pool(
                tokenizer([collection.queries[query_id]]).to_lists()[0],
                list(tokenizer([collection.texts[d] for d in doc_ids]).to_lists()),
                np.array([float(max(0, grades.get(d, 0))) for d in doc_ids]),
                tuple(sorted((float(g) for g in grades.values() if g > 0), reverse=True)),
                np.array([score for _, score in ranked]),
            )
        )
    return pools


def judge(
    model: InteractionReranker, pools: Sequence[Pool], depth: int, splicer: Splicer, bf16: bool
) -> list[Judged]:
    """Scores the first `depth` candidates of every pool."""
    import torch

    pairs = [(pool.query, document) for pool in pools for document in pool.documents[:depth]]
    model.eval()
    with torch.inference_mode():
        scored = score_pairs(
            model, pairs, splicer=splicer, token_budget=TOKEN_BUDGET_CPU, bf16=bf16
        )
    scores = scored.double().numpy()
    judged, start = [], 0
    for pool in pools:
        size = min(depth, len(pool.documents))
        part = scores[start : start + size]
        judged.append(Judged(pool.gains[:size], pool.ideal, pool.first_stage[:size], part))
        start += size
    return judged
