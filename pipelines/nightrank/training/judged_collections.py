"""Collections for training: reading them, holding queries out, turning them into token ids.

Files are in the BEIR layout: a corpus and queries as JSON lines (gzipped or not) or Parquet with
`_id`, `title` and `text`, and judgments as tab-separated query-id, corpus-id, score under a header.
A teacher's scores are Parquet as Nightrank publishes it: query_id, doc_id and a score.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nightrank.errors import NightrankError
from nightrank.models.engines.torch_engine import TOKEN_BUDGET_CPU
from nightrank.models.protocols import Tokenizer
from nightrank.models.text.passage import passage_text
from nightrank.storage.tokens import Tokens
from nightrank.training.groups import Example, Ids, Source
from nightrank.training.loop import score_pairs
from nightrank.training.mining import RankedList, mine
from nightrank.training.selection import Judged
from nightrank.training.trainee import Trainee

Qrels = dict[str, dict[str, int]]
"""Grade by query and document; above 0 is relevant."""


class Lists(Mapping[str, RankedList]):
    """Ranked lists by query_id, kept as columns: 25,000 lists of 100 as tuples take gigabytes.

    Args:
        query_ids: n of them.
        doc_ids: m of them.
        query: int [rows], into `query_ids`, ascending; within a query best first.
        document: int [rows], into `doc_ids`.
        score: float [rows].
    """

    def __init__(
        self,
        query_ids: Sequence[str],
        doc_ids: Sequence[str],
        query: NDArray[Any],
        document: NDArray[Any],
        score: NDArray[Any],
    ) -> None:
        self._places = {query_id: i for i, query_id in enumerate(query_ids)}
        self._starts = np.searchsorted(query, np.arange(len(query_ids) + 1))
        self._doc_ids, self._document, self._score = doc_ids, document, score

    def __getitem__(self, query_id: str) -> RankedList:
        place = self._places[query_id]
        part = slice(self._starts[place], self._starts[place + 1])
        rows, scores = self._document[part].tolist(), self._score[part].tolist()
        return [(self._doc_ids[row], score) for row, score in zip(rows, scores, strict=True)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True)
class Collection:
    """A collection in memory.

    Attributes:
        name: names it in reports.
        texts: passage text by doc_id, in the order of the corpus.
        queries: text by query_id, of judged queries and those that a teacher scored.
        qrels: the judgments.
        teacher: a teacher's list by query_id, its best first; empty without one.
        lists: ranked lists by query_id, for each first stage; added by the job.
        pools: what is reranked, by query_id: the first stage's final list; added by the job.
    """

    name: str
    texts: dict[str, str]
    queries: dict[str, str]
    qrels: Qrels
    teacher: dict[str, RankedList] = field(default_factory=dict)
    lists: Sequence[Mapping[str, RankedList]] = ()
    pools: Mapping[str, RankedList] = field(default_factory=dict)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a Parquet file, or of a JSONL file, gzipped or not.

    Raises:
        NightrankError: E_CONFIG, where it cannot be read.
    """
    try:
        if path.suffix == ".parquet":
            return list(pq.read_table(path).to_pylist())
        packed = path.read_bytes()
        text = gzip.decompress(packed) if path.suffix == ".gz" else packed
        # Not splitlines: a text may hold characters that it takes for line ends.
        return [json.loads(line) for line in text.decode("utf-8").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise NightrankError(
            "E_CONFIG", f"cannot read rows: {error}", str(path), "set data and its paths"
        ) from None


def read_qrels(path: Path) -> Qrels:
    """Grades by query and document.

    Raises:
        NightrankError: E_CONFIG, where the file cannot be read.
    """
    grades: Qrels = {}
    line = 0
    try:
        with path.open(encoding="utf-8", newline="") as file:
            # TSV has no quoting: an id may hold a double quote.
            for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                line += 1
                if row and row[0] != "query-id":
                    grades.setdefault(row[0], {})[row[1]] = int(row[2])
    except OSError as error:
        what, do = f"cannot read judgments: {error}", "set data and its paths"
        raise NightrankError("E_CONFIG", what, str(path), do) from None
    except (ValueError, IndexError, csv.Error):  # Their messages quote the file.
        what = "cannot read judgments: expected query-id, corpus-id and score (an integer), by tabs"
        do = "set data and its paths"
        raise NightrankError("E_CONFIG", what, f"{path}, line {line}", do) from None
    return grades


def read_teacher(path: Path, column: str) -> dict[str, RankedList]:
    """A teacher's lists, best first.

    Args:
        path: a Parquet file, or a folder of them: `query_id`, `doc_id` and the scores.
        column: where the scores stand; rows without one are left out.

    Raises:
        NightrankError: E_CONFIG, where it cannot be read or lacks a column.
    """
    try:
        table = ds.dataset(path, format="parquet").to_table(["query_id", "doc_id", column])
    except (OSError, ValueError) as error:
        what = f"cannot read a teacher's scores: {str(error).splitlines()[0]:.160}"
        do = "give Parquet with query_id, doc_id and the column that teacher_column names"
        raise NightrankError("E_CONFIG", what, str(path), do) from None
    lists: dict[str, list[tuple[str, float]]] = {}
    for row in table.drop_null().to_pylist():
        lists.setdefault(row["query_id"], []).append((row["doc_id"], float(row[column])))
    return {q: sorted(found, key=lambda pair: -pair[1]) for q, found in lists.items()}


def read_collection(
    name: str,
    corpus: Path,
    queries: Path,
    qrels: Sequence[Path],
    teacher: dict[str, RankedList] | None = None,
) -> Collection:
    """Reads a collection, keeping the queries that are judged or that the teacher scored.

    Raises:
        NightrankError: E_CONFIG, where a file cannot be read, or the teacher names a document that
            the corpus lacks.
    """
    grades: Qrels = {}
    for path in qrels:
        grades |= read_qrels(path)
    texts = {row["_id"]: passage_text(row.get("title"), row["text"]) for row in read_rows(corpus)}
    # Two tokens are the least that a pair needs; an empty document is nobody's negative.
    texts = {doc_id: text for doc_id, text in texts.items() if text.strip()}
    taught = teacher or {}
    asked = {
        row["_id"]: row["text"]
        for row in read_rows(queries)
        if row["_id"] in grades or row["_id"] in taught
    }
    for query_id, found in taught.items():
        if missing := next((doc_id for doc_id, _ in found if doc_id not in texts), None):
            what = f"the teacher scored document {missing!r} of query {query_id!r}"
            do = "give the corpus that the scores were made from"
            raise NightrankError("E_CONFIG", f"{what}, which is not there", str(corpus), do)
    kept = {
        query_id: {d: grade for d, grade in of_query.items() if d in texts}
        for query_id, of_query in grades.items()
        if query_id in asked
    }
    return Collection(name, texts, asked, kept, {q: t for q, t in taught.items() if q in asked})


def hold_out(collection: Collection, dropped: set[str], count: int, seed: int) -> list[str]:
    """`count` judged query_ids drawn by seed from those not dropped."""
    eligible = [q for q in collection.queries if q in collection.qrels and q not in dropped]
    order = np.random.default_rng([seed, 7]).permutation(len(eligible))
    return [eligible[int(i)] for i in order[:count]]


def training_source(
    collection: Collection,
    left_out: set[str],
    tokenizer: Tokenizer,
    *,
    weight: float,
    pool: int,
    guard_ratio: float | None,
) -> Source:
    """Makes a collection's groups, from its teacher where it has one, and turns them to token ids.

    Args:
        collection: with lists.
        left_out: query_ids not to train on.
        tokenizer: makes the ids; each text is tokenised once.
        weight: the collection's share of the groups.
        pool: see `mining.mine`.
        guard_ratio: see `mining.mine`.
    """
    documents = _ids_by_key(collection.texts, tokenizer)
    queries = _ids_by_key(collection.queries, tokenizer)
    if collection.teacher:
        examples = [
            Example(
                queries[query_id], [documents[d] for d, _ in found], [score for _, score in found]
            )
            for query_id, found in collection.teacher.items()
            if query_id not in left_out and len(found) > 1
        ]
        return Source(collection.name, examples, weight)
    groups = mine(
        collection.lists,
        {q: grades for q, grades in collection.qrels.items() if q not in left_out},
        pool=pool,
        guard_ratio=guard_ratio,
        same_text=lambda one, other: collection.texts[one] == collection.texts[other],
    )
    examples = [
        Example(queries[g.query_id], [documents[d] for d in (g.positive, *g.negatives)])
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
        ranked, grades = collection.pools[query_id], collection.qrels[query_id]
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


def judge(trainee: Trainee, pools: Sequence[Pool], depth: int, bf16: bool) -> list[Judged]:
    """Scores the first `depth` candidates of every pool."""
    import torch

    documents = Tokens.from_lists(d for pool in pools for d in pool.documents[:depth])
    sizes = [min(depth, len(pool.documents)) for pool in pools]
    rows = np.repeat(np.arange(len(pools)), sizes)
    pairs = np.stack([rows, np.arange(len(rows))], axis=1).astype(np.int32)
    queries = Tokens.from_lists(pool.query for pool in pools)
    trainee.network.eval()
    with torch.inference_mode():
        scored = score_pairs(trainee, queries, documents, pairs, TOKEN_BUDGET_CPU, bf16)
    parts = np.split(scored.double().cpu().numpy(), np.cumsum(sizes)[:-1])
    return [
        Judged(pool.gains[:size], pool.ideal, pool.first_stage[:size], part)
        for pool, size, part in zip(pools, sizes, parts, strict=True)
    ]
