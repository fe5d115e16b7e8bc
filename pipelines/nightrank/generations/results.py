"""Reading what was published: the only way in is the log.

A reader takes one generation's file list from the log and reads those files, so it sees one state
whatever is published meanwhile. Listing the data folders would show unfinished work.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from nightrank.config.keys import closest, did_you_mean
from nightrank.datasets.current_corpus import CurrentCorpus
from nightrank.datasets.fan_out import by_query_id
from nightrank.errors import NightrankError
from nightrank.generations.corpus import index_generation, load_corpus, manifest_at
from nightrank.generations.entries import ResultsEntry
from nightrank.storage.dataset import Dataset, FileRef, Manifest
from nightrank.storage.filesystem import connect
from nightrank.storage.log import Entry, Log
from nightrank.storage.reader import Reader
from nightrank.storage.store import Store

TABLES = ("ranked", "queries", "rejects", "changes")


def open_lake(root: str, name: str, options: dict[str, Any] | None = None) -> Store:
    """The store of one experiment, `<root>/<name>`."""
    return Store(f"{root.rstrip('/')}/{name}", options)


def generation_of(store: Store, generation: int | str | None = None) -> Entry:
    """A published generation, the current one by default.

    Args:
        store: the lake.
        generation: a number, or a day as 2026-01-31: the last generation published by its end, UTC.

    Raises:
        NightrankError: E_EMPTY where nothing is published, or not this generation; E_CORRUPT where
            its retention has ended.
    """
    log = Log(store, "results")
    entry = log.as_of(str(generation)) if generation is not None else log.current()
    if entry is None:
        do = "run `nightrank run CONFIG` first"
        raise NightrankError("E_EMPTY", "nothing published yet", store.url, do)
    asked = generation is not None
    if asked and (lost := expired(store, entry, log.condemned(entry.generation))):
        what = f"generation {entry.generation} has expired: `nightrank gc` removed it"
        do = "see `nightrank history CONFIG` for those that are kept"
        raise NightrankError("E_CORRUPT", what, store.path(lost), do)
    return entry


def expired(store: Store, entry: Entry, given_up: Container[str]) -> str:
    """The first dataset that a generation cannot be read without and that `gc` has taken.

    Args:
        store: the lake.
        entry: a published generation.
        given_up: `Log.condemned` of the results, of any number up to the entry's.

    Returns:
        Its path; empty where the generation can be read. What was condemned may have been computed
        again.
    """
    for path in ResultsEntry.of(entry).read_datasets():
        if path in given_up and Dataset(store, path).manifest() is None:
            return path
    return ""


def file_list(store: Store, entry: Entry, table: str = "ranked") -> list[str]:
    """Paths or s3:// urls of one table's files.

    Raises:
        NightrankError: E_USAGE for an unknown table.
    """
    if table not in TABLES:
        do = f"choose one of {', '.join(TABLES)}"
        suggestion = did_you_mean(closest(table, TABLES))
        raise NightrankError("E_USAGE", f"no table {table!r}{suggestion}", "", do)
    return [store.path(file["key"]) for file in entry.body["files"][table]]


def check_files(store: Store, entry: Entry) -> None:
    """Looks whether every published file is there in its size, without reading any.

    Raises:
        NightrankError: E_CORRUPT naming the first that is not.
    """
    folders: dict[str, dict[str, int]] = {}
    for file in (file for files in entry.body["files"].values() for file in files):
        folder, _, name = file["key"].rpartition("/")
        if folder not in folders:
            folders[folder] = store.files(folder)
        if (size := folders[folder].get(name)) != file["size"]:
            shown = "no file" if size is None else f"{size}"
            what = f"expected {file['size']} bytes, found {shown}"
            do = "choose another generation; see `nightrank history CONFIG`"
            raise NightrankError("E_CORRUPT", what, store.path(file["key"]), do)


def read_results(
    root: str,
    name: str,
    table: str = "ranked",
    generation: int | str | None = None,
    storage_options: dict[str, Any] | None = None,
) -> pads.Dataset:
    """Opens a published table as a pyarrow dataset (`.to_table()`, `.to_batches()`, filters).

    Args:
        root: the lake's root as in the config, local or s3://.
        name: the experiment's name as in the config.
        table: `ranked`, `queries`, `rejects` or `changes`.
        generation: an older one by number or day; the current one by default.
        storage_options: as in the config.

    Returns:
        The dataset over exactly this generation's files.

    Raises:
        NightrankError: E_EMPTY where nothing is published; E_USAGE for an unknown table; E_CORRUPT
            for a file that is not there in its size. Damaged pages raise an error when they are
            read.
    """
    store = open_lake(root, name, storage_options)
    entry = generation_of(store, generation)
    paths = file_list(store, entry, table)
    check_files(store, entry)
    filesystem, _ = connect(store.url, storage_options)
    bare = [path.removeprefix("s3://") for path in paths]
    # Every page against its checksum, and no type that would bring code of its own.
    options = pads.ParquetFragmentScanOptions(
        page_checksum_verification=True, arrow_extensions_enabled=False
    )
    parquet = pads.ParquetFileFormat(default_fragment_scan_options=options)
    return pads.dataset(bare, format=parquet, filesystem=filesystem)


def published_table(store: Store, entry: Entry, table: str, columns: list[str]) -> pa.Table:
    """Columns of a published table, every file checked by its sha256.

    Raises:
        NightrankError: E_CORRUPT for a missing or altered file.
    """
    read = Reader(store)
    refs = (FileRef(**file) for file in entry.body["files"][table])
    return pa.concat_tables([read.table(ref, columns) for ref in refs])


def full_lists(store: Store, entry: Entry, query_ids: pa.Array | None = None) -> pa.Table:
    """Every scored candidate of a generation, not only what `results.keep` published.

    Args:
        store: the lake.
        entry: a published generation.
        query_ids: only these queries, where given.

    Returns:
        `query_id`, `vertical` and the columns of `schemas.pool` without `query` and `ordinal`,
        sorted by (query_id, rank) within a query shard.
    """
    read = Reader(store)
    ranked, distinct, _ = manifests_of(store, entry)
    parts = []
    for lists, texts in zip(ranked.shards, distinct.shards, strict=True):
        members = read.table(texts.files["members"], ["query_id", "query", "vertical"])
        if query_ids is not None:
            members = members.filter(pc.is_in(members["query_id"], query_ids))
        parts.append(by_query_id(read.table(lists.files["pool"]), members))
    return pa.concat_tables(parts).drop_columns(["ordinal"])


def manifests_of(store: Store, entry: Entry) -> tuple[Manifest, Manifest, CurrentCorpus]:
    """The rank and distinct manifests of a generation, and its corpus."""
    results = ResultsEntry.of(entry)
    return (
        manifest_at(store, results.datasets.rank),
        manifest_at(store, results.datasets.distinct),
        load_corpus(store, index_generation(store, results.index_generation)).current(),
    )
