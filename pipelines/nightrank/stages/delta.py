"""Decides which of several rows with one id counts, and what that changes in the current corpus.

In: ids of all splits and of the current segments, one bucket range at a time, so that no task reads
all ids. Out: `dropped` (rows that do not count) and `kept` (rows of new or changed documents), both
scattered by input split; `tombstones` (current documents that are deleted or replaced), scattered
by id bucket. Cardinality: one shard per run of buckets. Knows nothing about: texts, models.

A change feed names what changed and leaves all else alone; there the highest sequence counts.

A document is the same as long as its id and its content hash are: one that moves between files, or
changes and changes back, costs what it must and no more. Queries have no current part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.datasets.current_corpus import ROWS_PER_TASK, CurrentCorpus, ordinals_in
from nightrank.errors import NightrankError
from nightrank.runtime.stage import Declaration, Task
from nightrank.storage import buckets, ordinals, schemas
from nightrank.storage.dataset import FileRef, Manifest, Payload, shard_names
from nightrank.storage.ranges import Range
from nightrank.storage.reader import Reader
from nightrank.storage.scatter import Scatter

Kind = Literal["corpus", "queries"]


@dataclass(frozen=True)
class Inputs:
    """What is compared.

    Attributes:
        kind: which input.
        ingested: its ids.
        policy: which of several rows with one id counts.
        current: the corpus that it is compared with.
        feed: whether the input names changes alone.
    """

    kind: Kind
    ingested: Manifest
    policy: str
    current: CurrentCorpus = field(default_factory=lambda: CurrentCorpus({}))
    feed: bool = False


@dataclass(frozen=True)
class Settings:
    """See `Inputs`."""

    kind: Kind
    policy: str
    feed: bool


@dataclass(frozen=True)
class Args:
    """A run of id buckets: of the input, of the current documents, of tombstones."""

    ingested: list[buckets.Part]
    current: list[buckets.Part] = field(default_factory=list)
    tombstones: list[tuple[FileRef, Sequence[Range]]] = field(default_factory=list)


def tasks(inputs: Inputs) -> list[Task[Args]]:
    """One task per run of buckets of about four million rows."""
    ingested, current = inputs.ingested, inputs.current
    rows = ingested.rows("ids") + sum(
        manifest.rows("ids") for manifest in current.documents.values()
    )
    runs = buckets.runs(rows, ROWS_PER_TASK)
    segments = [
        (number, ref)
        for number, manifest in sorted(current.documents.items())
        for ref in manifest.files("ids")
    ]
    tombstones = current.tombstone_files()
    units = []
    for name, run in zip(shard_names(len(runs)), runs, strict=True):
        args = Args(
            buckets.parts(enumerate(ingested.files("ids")), run),
            buckets.parts(segments, run),
            # Of joined buckets some that are not needed: they name no other document.
            [(p.ref, p.ranges) for p in buckets.parts(enumerate(tombstones), run)],
        )
        units.append(Task(name, args))
    return units


class Worker:
    """Compares some buckets."""

    def __init__(self, settings: Settings, threads: int) -> None:
        self._kind, self._policy, self._feed = settings.kind, settings.policy, settings.feed
        self._schema = schemas.FEED_IDS if self._feed else schemas.IDS

    def __call__(self, task: Task[Args], read: Reader) -> Payload:
        """`last` and `strict` keep the last row of an id, `first` and `error` the first."""
        table = _numbered(task.args.ingested, "split", self._schema, read)
        order = ["id", "split", "row"]
        if self._feed:
            order.insert(1, "sequence")
        table = table.sort_by([(name, "ascending") for name in order]).combine_chunks()
        same = np.zeros(max(table.num_rows - 1, 0), dtype=bool)  # Row i and i+1 share their id.
        if table.num_rows > 1:
            ids = table["id"]
            same = pc.equal(ids.slice(0, table.num_rows - 1), ids.slice(1)).to_numpy()
        self._refuse(table, same)
        dropped = np.zeros(table.num_rows, dtype=bool)
        if self._policy in ("last", "strict"):
            dropped[:-1] = same
        else:
            dropped[1:] = same
        lost = table.filter(pa.array(dropped))
        reason = "duplicate" if self._policy in ("last", "strict") else "duplicate_id"
        columns = [lost["row"], lost["id"], pa.array([reason] * lost.num_rows, pa.string())]
        content = Scatter(pa.table(columns, schema=schemas.DROPPED), lost["split"].to_numpy())
        stats: dict[str, Any] = {"dropped": lost.num_rows}
        if self._kind == "queries":
            return Payload({"dropped": content}, stats)
        table = table.filter(pa.array(~dropped)).combine_chunks()
        scattered, compared = _compare(table, self._current(task.args, read), self._feed)
        return Payload({"dropped": content, **scattered}, stats | compared)

    def _current(self, args: Args, read: Reader) -> pa.Table:
        """Current documents of these buckets: id, content_hash and ordinal (in `row`)."""
        table = _numbered(args.current, "segment", self._schema, read).combine_chunks()
        places = ordinals.pack(table["segment"].to_numpy(), 0, table["row"].to_numpy())
        tombstoned = ordinals_in(args.tombstones, read)
        table = table.set_column(table.schema.get_field_index("row"), "row", pa.array(places))
        return table.filter(pa.array(~np.isin(places, tombstoned))).combine_chunks()

    def _refuse(self, table: pa.Table, same: np.ndarray) -> None:
        if self._policy not in ("strict", "error") or not same.any():
            return
        wrong = same
        if self._policy == "strict":
            hashes = table["content_hash"]
            wrong = same & pc.not_equal(hashes.slice(0, len(same)), hashes.slice(1)).to_numpy()
        if wrong.any():
            duplicates = pc.unique(table["id"].slice(0, len(same)).filter(pa.array(wrong)))
            examples = ", ".join(repr(value)[:80] for value in duplicates.slice(0, 3).to_pylist())
            if self._policy == "strict":
                what = f"{len(duplicates)} doc_ids have several texts each, e.g. {examples}"
                do = "make doc_ids unique, or set corpus.duplicates=last"
            else:
                what = f"{len(duplicates)} query_ids occur more than once, e.g. {examples}"
                do = "make query_ids unique, or set queries.on_dup_query=reject"
            raise NightrankError("E_SCHEMA", what, "", do)


def _numbered(parts: list[buckets.Part], name: str, schema: pa.Schema, read: Reader) -> pa.Table:
    """Rows of ids with the number of the split or segment they are of."""
    tables = [schema.empty_table().append_column(name, pa.array([], pa.int32()))]
    for part in parts:
        table = part.read(read, "id")
        numbers = pa.array(np.full(table.num_rows, part.number, np.int32))
        tables.append(table.append_column(name, numbers))
    return pa.concat_tables(tables)


def _compare(
    table: pa.Table, current: pa.Table, feed: bool
) -> tuple[dict[str, Scatter], dict[str, Any]]:
    """What the rows that count change: rows to fetch, and current documents to tombstone."""
    at = pc.index_in(table["id"], current["id"].combine_chunks()).combine_chunks()
    known = pc.is_valid(at).to_numpy(zero_copy_only=False)
    place = pc.fill_null(at, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    differs = np.ones(table.num_rows, dtype=bool)
    old = current.take(pa.array(place[known]))
    if known.any():
        new = table["content_hash"].filter(pa.array(known))
        differs[known] = pc.not_equal(new, old["content_hash"]).to_numpy()
    removes = np.zeros(table.num_rows, dtype=bool)
    replaced = np.ones(current.num_rows, dtype=bool)
    if feed:
        removes = table["removed"].to_numpy(zero_copy_only=False)
        late = np.zeros(table.num_rows, dtype=bool)
        newer = pc.greater(table["sequence"].filter(pa.array(known)), old["sequence"])
        late[known] = ~newer.to_numpy(zero_copy_only=False)
        differs &= ~late
        removes &= ~late
        replaced[:] = False
        replaced[place[known & (differs | removes)]] = True
    else:
        replaced[place[known & ~differs]] = False
    fetch = table.filter(pa.array(differs & ~removes))
    kept = pa.table([fetch["row"], fetch["content_hash"]], schema=schemas.KEPT)
    gone = current.filter(pa.array(replaced))
    places = gone["row"].to_numpy()
    segments, counts = np.unique(places >> ordinals.SEGMENT_SHIFT, return_counts=True)
    changed = int((known & differs & ~removes).sum())
    added = int((~known & ~removes).sum())
    stats = {
        "added": added,
        "changed": changed,
        "removed": int(replaced.sum()) - changed,
        "unchanged": current.num_rows - int(replaced.sum()),
        "without_effect": table.num_rows - added - changed if feed else 0,
        "tombstoned": {str(n): c for n, c in zip(segments.tolist(), counts.tolist(), strict=True)},
    }
    tombstones = pa.table([pa.array(places)], schema=schemas.TOMBSTONES)
    return {
        "kept": Scatter(kept, fetch["split"].to_numpy()),
        "tombstones": buckets.scatter(tombstones, gone["id"]),
    }, stats


def schemas_of(inputs: Inputs) -> dict[str, pa.Schema]:
    """Schemas of the shards' tables; queries have no current part."""
    tables = {"dropped": schemas.DROPPED}
    if inputs.kind == "corpus":
        tables |= {"kept": schemas.KEPT, "tombstones": schemas.TOMBSTONES}
    return tables


STAGE = Declaration(
    name="delta",
    version=2,
    pool="general",
    scales_with="input rows",
    tasks=tasks,
    worker=Worker,
    settings=lambda inputs: Settings(inputs.kind, inputs.policy, inputs.feed),
    schemas=schemas_of,
)
