"""From lists of distinct queries to what is published: rows per query_id, and the queries table.

Part of the rank stage. Identical query texts were ranked once; here every query_id gets its rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.config.schema import Corpus, Queries
from nightrank.datasets.lists import lists
from nightrank.datasets.row_schemas import attributes_schema, documents_schema
from nightrank.retrieval.ranking import positions
from nightrank.runtime.identity import outside_identity
from nightrank.storage import buckets, ordinals, schemas
from nightrank.storage.dataset import FileRef, Manifest
from nightrank.storage.reader import Reader
from nightrank.storage.scatter import Scatter


@dataclass(frozen=True)
class FanOut:
    """Inputs and settings of the fan-out.

    Attributes:
        distinct: the distinct queries and their query_ids.
        embedded: the embeddings of the distinct queries, whose rejects have no list.
        documents: of every segment by its number, read only where document columns are asked for.
        keep: results per query.
        columns: document columns to repeat in every row.
        policy: the steps applied, as the queries table names them.
        queries: the section of the config.
        corpus: the section of the config.
    """

    distinct: Manifest
    embedded: Manifest
    documents: dict[int, Manifest]
    keep: int
    columns: tuple[str, ...]
    policy: str
    queries: Queries = outside_identity()
    corpus: Corpus = outside_identity()

    def of_shard(self, number: int) -> FanOutFiles:
        """The files that one query shard needs."""
        return FanOutFiles(
            self.distinct.shards[number].files["members"],
            self.embedded.shards[number].files["rejects"],
            document_files(self.documents) if self.columns else {},
        )

    def settings(self) -> FanOutSettings:
        """What the worker needs of this."""
        return FanOutSettings(self.keep, self.columns, self.policy, documents_schema(self.corpus))


@dataclass(frozen=True)
class FanOutFiles:
    """Files of one query shard: query_ids, rejected queries, document shards by segment."""

    members: FileRef
    rejects: FileRef
    documents: dict[int, list[FileRef]]


@dataclass(frozen=True)
class FanOutSettings:
    """See `FanOut`; `schema` is that of the documents."""

    keep: int
    columns: tuple[str, ...]
    policy: str
    schema: pa.Schema


def publish_schemas(steps: list[str], hybrid: bool, published: FanOut) -> dict[str, pa.Schema]:
    """Schemas of the published files."""
    documents = documents_schema(published.corpus)
    columns = pa.schema([documents.field(name) for name in published.columns])
    return {
        "ranked": schemas.ranked(steps, hybrid, columns),
        "queries": schemas.queries(attributes_schema(published.queries)),
        "lists": schemas.LISTS,
        "rejects": schemas.REJECTS,
    }


def fan_out(
    pool: pa.Table,
    rejected: pa.Table,
    files: FanOutFiles,
    settings: FanOutSettings,
    read: Reader,
) -> tuple[dict[str, pa.Table | Scatter], dict[str, int]]:
    """Makes `ranked`, `queries`, `lists` and `rejects` of one query shard.

    Args:
        pool: ranked lists of the distinct queries, sorted by (query, rank).
        rejected: `schemas.LOST`, candidates that were left out since they have no finite score.
        files: of the query shard.
        settings: how many rows, which columns.
        read: opens the files.

    Returns:
        The tables, and counts for the record.
    """
    members = read.table(files.members)
    query = members["query"].to_numpy()
    total = int(max(query.max(initial=-1), pc.max(pool["query"]).as_py() or -1)) + 1
    counts = np.bincount(pool["query"].to_numpy(), minlength=total)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]) if total else np.zeros(0, np.int64)
    taken = np.minimum(counts[query], settings.keep)
    owner = np.repeat(np.arange(len(query)), taken)
    offset = positions(owner.astype(np.int32)).astype(np.int64) - 1
    rows = pool.take(pa.array(starts[query][owner] + offset))
    ranked = rows.drop_columns(["query", "ordinal"])
    ranked = ranked.add_column(0, "query_id", members["query_id"].take(pa.array(owner)))
    for name in settings.columns:
        column = document_column(
            name, rows["ordinal"], files.documents, read, settings.schema.field(name).type
        )
        ranked = ranked.append_column(name, column)

    status, reason = _status(members, counts, rejected, read.table(files.rejects))
    fixed = {
        "query_id": members["query_id"],
        "status": status,
        "reason": reason,
        "num_candidates": pa.array(counts[query].astype(np.int32)),
        "vertical": members["vertical"],
        "policy": pa.array([settings.policy] * len(query), pa.string()),
    }
    carried = [name for name in members.column_names if name not in (*fixed, "query")]
    queries = pa.table({**fixed, **{name: members[name] for name in carried}})
    by_status = {f"queries_{v['values']}": v["counts"] for v in pc.value_counts(status).to_pylist()}
    kept = lists(ranked, members, taken)
    return {
        "ranked": ranked,
        "queries": queries,
        "lists": buckets.scatter(kept, kept["query_id"]),
        "rejects": _rejects(rejected, members),
    }, by_status


def _status(
    members: pa.Table, counts: np.ndarray, rejected: pa.Table, unembedded: pa.Table
) -> tuple[pa.Array, pa.Array]:
    """Status and reason of every query_id."""
    query = members["query"].to_numpy()
    size = max(len(counts), int(query.max(initial=-1)) + 1)
    reasons = np.full(size, "", dtype=object)
    lost = rejected["query"].to_numpy()
    reasons[lost[counts[lost] == 0]] = "no_finite_score"
    reasons[unembedded["row"].to_numpy()] = unembedded["reason"].to_numpy(zero_copy_only=False)
    reason = reasons[query]
    status = np.where(counts[query] > 0, "ranked", "no_candidates").astype(object)
    status[reason != ""] = "rejected"
    return pa.array(status, pa.string()), pa.array(reason, pa.string())


def document_files(documents: dict[int, Manifest]) -> dict[int, list[FileRef]]:
    """Document shards of every segment, by its number."""
    return {number: manifest.files("documents") for number, manifest in documents.items()}


def document_column(
    name: str,
    places: pa.ChunkedArray,
    documents: dict[int, list[FileRef]],
    read: Reader,
    kind: pa.DataType | None = None,
) -> pa.Array:
    """One document column for rows given by ordinal; reads that column of the shards it needs."""
    wanted = places.to_numpy()
    keys = ordinals.shard_key(wanted)
    parts, at = [], np.empty(len(wanted), dtype=np.int64)
    done = 0
    for key in np.unique(keys).tolist():
        mine = np.flatnonzero(keys == key)
        segment, shard = ordinals.split_key(key)
        column = read.table(documents[segment][shard], [name])[name].combine_chunks()
        parts.append(column.take(pa.array(ordinals.row(wanted[mine]))))
        kind = column.type
        at[mine] = np.arange(done, done + len(mine))
        done += len(mine)
    if not parts:
        return pa.array([], kind or pa.string())
    return pa.chunked_array(parts, kind).take(pa.array(at))


def _rejects(rejected: pa.Table, members: pa.Table) -> pa.Table:
    """Pairs without a finite score; the detail names the first query_id."""
    query = members["query"].to_numpy()
    wanted = rejected["query"].to_numpy()
    order = np.argsort(query, kind="stable")
    first = order[np.searchsorted(query[order], wanted)] if len(query) else wanted
    names = members["query_id"].take(pa.array(first)).combine_chunks().cast(pa.string())
    count = rejected.num_rows
    columns = [
        pa.array(["pair"] * count, pa.string()),
        pa.array([""] * count, pa.string()),
        pa.array(np.full(count, -1), pa.int64()),
        rejected["doc_id"],
        rejected["reason"],
        pc.utf8_slice_codeunits(names, 0, 200),
    ]
    return pa.table(columns, schema=schemas.REJECTS)


def by_query_id(pool: pa.Table, members: pa.Table) -> pa.Table:
    """Lists of distinct queries as lists of query_ids, sorted by (query_id, rank).

    Args:
        pool: `schemas.pool`.
        members: `query_id`, `query`, `vertical` of the wanted query_ids.

    Returns:
        `query_id`, `vertical` and the pool's columns without `query`.
    """
    joined = pool.join(members, "query", join_type="inner").drop_columns(["query"])
    order = [("query_id", "ascending"), ("rank", "ascending")]
    return joined.sort_by(order).combine_chunks()
