"""One query of a published generation: its list with all scores, or why it has none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.config.keys import closest, did_you_mean
from nightrank.datasets.fan_out import document_column, document_files
from nightrank.errors import NightrankError
from nightrank.generations.results import manifests_of
from nightrank.storage.dataset import FileRef
from nightrank.storage.log import Entry
from nightrank.storage.reader import Reader
from nightrank.storage.store import Store

# Ids that are compared with an unknown one: a second of difflib.
MOST_COMPARED = 100_000


@dataclass(frozen=True)
class QueryList:
    """One query as it was published.

    Attributes:
        about: its row of the queries table: query_id, status, reason, num_candidates, vertical,
            policy, attributes.
        text: the query.
        rows: its candidates by rank, all of them or the first so many: doc_id, rank, score,
            rerank_score, first_stage_rank, first_stage_score, the scores of steps; `title`.
    """

    about: dict[str, Any]
    text: str
    rows: list[dict[str, Any]]


def find_query(store: Store, entry: Entry, query_id: str, limit: int) -> QueryList:
    """Reads one query's list from the full lists of a generation.

    Args:
        store: the lake.
        entry: a published generation.
        query_id: as in the input.
        limit: how many candidates; 0 for all.

    Raises:
        NightrankError: E_EMPTY for a query_id that the generation does not have; it says where the
            query was rejected, or which ids are spelt alike.
    """
    read = Reader(store)
    seen: list[pa.ChunkedArray] = []
    compared = 0
    for shard, file in enumerate(entry.body["files"]["queries"]):
        ref = FileRef(**file)
        ids = read.table(ref, ["query_id"])["query_id"]
        row = pc.index(ids, query_id).as_py()
        if row >= 0:
            about = read.table(ref).slice(row, 1).to_pylist()[0]
            return _read_list(store, entry, shard, about, limit)
        if compared < MOST_COMPARED:
            seen.append(ids.slice(0, MOST_COMPARED - compared))
            compared += len(seen[-1])
    known = (one for ids in seen for one in ids.to_pylist())
    raise _unknown(read, entry, query_id, did_you_mean(closest(query_id, known)))


def _read_list(
    store: Store, entry: Entry, shard: int, about: dict[str, Any], limit: int
) -> QueryList:
    """The list of a query of one query shard; files of all tables are in the order of shards."""
    read = Reader(store)
    ranked, distinct, corpus = manifests_of(store, entry)
    lists, texts = ranked.shards[shard].files["pool"], distinct.shards[shard].files
    members = read.table(texts["members"], ["query_id", "query"])
    number = members["query"][pc.index(members["query_id"], about["query_id"]).as_py()].as_py()
    text = str(read.table(texts["queries"], ["text"])["text"][number])
    # Sorted by (query, rank): a list is one run of rows, of a file of some tens of millions.
    owners = read.table(lists, ["query"])["query"].to_numpy()
    low, high = (int(np.searchsorted(owners, number, side)) for side in ("left", "right"))
    high = min(high, low + limit) if limit else high
    if low == high:
        return QueryList(about, text, [])
    groups = [
        group.slice(max(low - first, 0), min(high - first, group.num_rows) - max(low - first, 0))
        for first, group in read.slices(lists, low, high)
    ]
    table = pa.concat_tables(groups)
    files = document_files(corpus.documents)
    titles = document_column("title", table["ordinal"], files, read)
    rows = table.drop_columns(["query", "ordinal"]).append_column("title", titles)
    return QueryList(about, text, rows.to_pylist())


def _unknown(read: Reader, entry: Entry, query_id: str, suggestion: str) -> NightrankError:
    """The error for an id that is not in the queries table."""
    for file in entry.body["files"]["rejects"]:
        rejects = read.table(FileRef(**file))
        mine = pc.and_(pc.equal(rejects["kind"], "queries"), pc.equal(rejects["id"], query_id))
        for row in rejects.filter(mine).slice(0, 1).to_pylist():
            what = f"query {query_id!r} was rejected: {row['reason']}: {row['detail']}"
            where = f"{row['file']}, row {row['row']}"
            return NightrankError("E_EMPTY", what, where, "correct the row and run again")
    what = f"no query {query_id!r} in generation {entry.generation}{suggestion}"
    do = "`nightrank results CONFIG --table queries` names the files that list all query_ids"
    return NightrankError("E_EMPTY", what, "", do)
