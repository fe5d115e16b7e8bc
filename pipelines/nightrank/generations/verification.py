"""The invariants of a published generation, checked from the bytes up.

I1 queries in = ranked + no_candidates + rejected + unselected. I2 documents in = indexed + rejected
+ superseded. I3 ranks of a query run 1..n, scores are finite and ordered, ties by doc_id
descending. I4 every doc_id is current in the index generation named. I5 every file matches size,
sha256 and rows. I6 numbers are contiguous, watermarks of publications never fall.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.datasets.current_corpus import tombstoned_ordinals
from nightrank.errors import NightrankError
from nightrank.generations.corpus import index_generation, manifest_at
from nightrank.generations.entries import ResultsEntry
from nightrank.storage.dataset import Dataset, FileRef
from nightrank.storage.log import Entry, Log
from nightrank.storage.ordinals import pack
from nightrank.storage.reader import Reader
from nightrank.storage.store import Store


def verify_generation(store: Store, entry: Entry) -> dict[str, int]:
    """Checks one generation and its log.

    Returns:
        What was checked, by name and count.

    Raises:
        NightrankError: E_CORRUPT or E_ACCOUNTING at the first violation, naming file and query.
    """
    checked = {"log entries": _check_log(store)}
    _check_balances(entry)
    read = Reader(store)
    documents = _document_ids(store, read, entry)
    totals = {"files": _check_datasets(store, read, entry), "rows": 0}
    ids: list[pa.Array] = []
    for name, files in entry.body["files"].items():
        for file in files:
            ref = FileRef(file["key"], file["size"], file["sha256"], file["rows"])
            table = read.table(ref)
            totals["files"] += 1
            totals["rows"] += table.num_rows
            if name == "ranked":
                _check_lists(table, store.path(ref.key))
                _check_documents(table, documents, store.path(ref.key))
            if name == "queries":
                ids.append(table["query_id"].combine_chunks())
    _check_queries(ids, entry)
    checked |= totals | {"documents": len(documents)}
    return checked | {"model files": _check_models(store, read, entry)}


def _corrupt(what: str, where: str) -> NightrankError:
    do = "do not use this generation; read an older one and run again"
    return NightrankError("E_CORRUPT", what, where, do)


def _check_log(store: Store) -> int:
    """I6, over the whole results log."""
    log = Log(store, "results")
    numbers = log.generations()
    if numbers != list(range(1, len(numbers) + 1)):
        raise _corrupt(f"generations are not contiguous: {numbers[:20]}", "results/_log")
    # Of what was published: `gc` takes numbers between a run's plan and its publication.
    marks = [entry.body["watermark"] for entry in log.published()]
    if marks != sorted(marks):
        raise _corrupt(f"watermarks fall: {marks[:20]}", "results/_log")
    return len(numbers)


def _check_balances(entry: Entry) -> None:
    """I1 and I2, from the published counts, and rows against files."""
    counts = entry.body["counts"]
    for kind in ("documents", "queries"):
        parts = {name: n for name, n in counts[kind].items() if name != "in"}
        if counts[kind]["in"] != sum(parts.values()):
            what = f"{kind} do not balance: {counts[kind]['in']} in, {parts} out"
            raise NightrankError("E_ACCOUNTING", what, f"generation {entry.generation}")
    for name, files in entry.body["files"].items():
        if sum(file["rows"] for file in files) != counts["rows"][name]:
            what = f"{name}: files hold other than {counts['rows'][name]} rows"
            raise NightrankError("E_ACCOUNTING", what, f"generation {entry.generation}")


def _check_datasets(store: Store, read: Reader, entry: Entry) -> int:
    """I5 of what the generation cannot be read without, beside its published files."""
    published = {file["key"] for files in entry.body["files"].values() for file in files}
    checked = 0
    for path in sorted(set(ResultsEntry.of(entry).read_datasets())):
        for shard in manifest_at(store, path).shards:
            for ref in shard.files.values():
                if ref.key not in published:
                    read.buffer(ref)
                    checked += 1
    return checked


def _document_ids(store: Store, read: Reader, entry: Entry) -> pa.Array:
    """All doc_ids of the index generation that the entry names, after checking all its files."""
    index = index_generation(store, entry.body["index_generation"])
    parts = [pa.array([], pa.string())]
    deltas = [manifest_at(store, path) for path in index.tombstones]
    refs = [ref for manifest in deltas for ref in manifest.files("tombstones")]
    tombstoned = tombstoned_ordinals(refs, read)
    for segment in index.segments:
        for path in (segment.documents, segment.embeddings, segment.index):
            manifest = Dataset(store, path).manifest()
            if manifest is None:
                raise _corrupt("a dataset of this generation's index is gone", path)
            for shard in manifest.shards:
                for name, ref in shard.files.items():
                    read.buffer(ref)
                    if path == segment.index and name == "rows":
                        table = read.table(ref)
                        places = pack(segment.number, 0, table["ordinal"].to_numpy())
                        current = table.filter(pa.array(~np.isin(places, tombstoned)))
                        parts.append(current["doc_id"].combine_chunks())
    doc_ids = pa.concat_arrays(parts)
    if pc.count_distinct(doc_ids).as_py() != len(doc_ids):
        raise _corrupt("a doc_id is indexed twice", f"index generation {index.generation}")
    return doc_ids


def _check_models(store: Store, read: Reader, entry: Entry) -> int:
    """I5, of the models that made the generation; how many files they have."""
    files = 0
    for path in entry.body.get("stored_models", ()):
        manifest = Dataset(store, path).manifest()
        if manifest is None:
            raise _corrupt("a model of this generation is gone", path)
        for ref in (ref for record in manifest.shards for ref in record.files.values()):
            read.check(ref)
            files += 1
    return files


def _check_lists(table: pa.Table, where: str) -> None:
    """I3."""
    if table.num_rows == 0:
        return
    score = table["score"].to_numpy()
    if not np.isfinite(score).all():
        raise _corrupt("a score is not finite", where)
    same = pc.equal(table["query_id"].slice(1), table["query_id"].slice(0, len(table) - 1))
    same = np.append(False, same.to_numpy())
    rank = table["rank"].to_numpy()
    expected = np.where(same, np.append(0, rank[:-1]) + 1, 1)
    if not np.array_equal(rank, expected):
        raise _bad_row(table, np.flatnonzero(rank != expected)[0], "ranks do not run 1..n", where)
    falls = np.append(True, score[1:] <= score[:-1]) | ~same
    ties = np.append(False, score[1:] == score[:-1]) & same
    below = pc.less(table["doc_id"].slice(1), table["doc_id"].slice(0, len(table) - 1))
    ordered = np.append(True, below.to_numpy()) | ~ties
    if not (falls & ordered).all():
        at = np.flatnonzero(~(falls & ordered))[0]
        raise _bad_row(table, at, "rows are out of order", where)
    starts = np.flatnonzero(~same)
    if pc.count_distinct(table["query_id"].take(pa.array(starts))).as_py() != len(starts):
        raise _corrupt("a query's rows are not together", where)


def _bad_row(table: pa.Table, row: Any, what: str, where: str) -> NightrankError:
    return _corrupt(f"{what}: query {table['query_id'][int(row)].as_py()!r}, row {row}", where)


def _check_documents(table: pa.Table, documents: pa.Array, where: str) -> None:
    """I4."""
    known = pc.is_in(table["doc_id"], documents)
    if not pc.all(known, min_count=0).as_py():
        strange = table["doc_id"].filter(pc.invert(known))[0].as_py()
        raise _corrupt(f"doc_id {strange!r} is not in the index", where)


def _check_queries(ids: list[pa.Array], entry: Entry) -> None:
    """Every query_id once in the queries table, and as many as the counts say."""
    query_ids = pa.concat_arrays(ids) if ids else pa.array([], pa.string())
    if pc.count_distinct(query_ids).as_py() != len(query_ids):
        raise _corrupt("a query_id occurs twice in the queries table", f"gen {entry.generation}")
