"""Decides which of several rows with one id counts, and what that changes in the standing corpus.

In: ids of all splits and of the standing segments, one bucket range at a time, so that no task
reads all ids. Out: `dropped` (rows that do not count) and `kept` (rows of new or changed
documents), both scattered by input split; `tombstones` (standing documents that are gone or
replaced), scattered by id bucket. Cardinality: one shard per run of buckets. Knows nothing about:
texts, models.

A change feed names what changed and leaves all else alone; there the highest sequence counts.

A document is the same as long as its id and its content hash are: one that moves between files, or
changes and changes back, costs what it must and no more. Queries have no standing part.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.datasets.current_corpus import ROWS_PER_TASK, CurrentCorpus, ordinals_in
from nightrank.errors import NightrankError
from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.storage import buckets, ordinals, schemas
from nightrank.storage.dataset import Manifest, Payload, shard_names
from nightrank.storage.reader import Reader
from nightrank.storage.scatter import Scatter

VERSION = 2


def plan(ingested: Manifest, standing: CurrentCorpus) -> tuple[Task, ...]:
    """One task per run of buckets of about four million rows."""
    rows = ingested.rows("ids") + sum(made.rows("ids") for made in standing.documents.values())
    runs = buckets.runs(rows, ROWS_PER_TASK)
    segments = [
        (number, ref)
        for number, made in sorted(standing.documents.items())
        for ref in made.files("ids")
    ]
    tasks = []
    for name, run in zip(shard_names(len(runs)), runs, strict=True):
        args = {
            "ingested": buckets.parts(enumerate(ingested.files("ids")), run),
            "standing": buckets.parts(segments, run),
            # Of joined buckets some that are not needed: they bury nothing else.
            "dead": [(p.ref, p.ranges) for p in buckets.parts(enumerate(standing.dead()), run)],
        }
        tasks.append(Task(name, args))
    return tuple(tasks)


class Worker:
    """Compares some buckets."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self._kind: str = config["kind"]
        self._policy: str = config["policy"]
        self._feed: bool = config["feed"]
        self._schema = schemas.FEED_IDS if self._feed else schemas.IDS

    def __call__(self, task: Task, read: Reader) -> Payload:
        """`last` and `strict` keep the last row of an id, `first` and `error` the first."""
        table = _numbered(task.args["ingested"], "split", self._schema, read)
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
        made, compared = _compare(table, self._standing(task, read), self._feed)
        return Payload({"dropped": content, **made}, stats | compared)

    def _standing(self, task: Task, read: Reader) -> pa.Table:
        """Living documents of these buckets: id, content_hash and ordinal (in `row`)."""
        table = _numbered(task.args["standing"], "segment", self._schema, read).combine_chunks()
        places = ordinals.pack(table["segment"].to_numpy(), 0, table["row"].to_numpy())
        dead = ordinals_in(task.args["dead"], read)
        table = table.set_column(table.schema.get_field_index("row"), "row", pa.array(places))
        return table.filter(pa.array(~np.isin(places, dead))).combine_chunks()

    def _refuse(self, table: pa.Table, same: np.ndarray) -> None:
        if self._policy not in ("strict", "error") or not same.any():
            return
        wrong = same
        if self._policy == "strict":
            hashes = table["content_hash"]
            wrong = same & pc.not_equal(hashes.slice(0, len(same)), hashes.slice(1)).to_numpy()
        if wrong.any():
            found = pc.unique(table["id"].slice(0, len(same)).filter(pa.array(wrong)))
            examples = ", ".join(repr(value)[:80] for value in found.slice(0, 3).to_pylist())
            if self._policy == "strict":
                what = f"{len(found)} doc_ids stand for different texts, e.g. {examples}"
                do = "make doc_ids unique, or set corpus.duplicates=last"
            else:
                what = f"{len(found)} query_ids stand more than once, e.g. {examples}"
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
    table: pa.Table, standing: pa.Table, feed: bool
) -> tuple[dict[str, Scatter], dict[str, Any]]:
    """What the rows that count change: rows to fetch, and standing documents to bury."""
    at = pc.index_in(table["id"], standing["id"].combine_chunks()).combine_chunks()
    known = pc.is_valid(at).to_numpy(zero_copy_only=False)
    place = pc.fill_null(at, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    differs = np.ones(table.num_rows, dtype=bool)
    old = standing.take(pa.array(place[known]))
    if known.any():
        new = table["content_hash"].filter(pa.array(known))
        differs[known] = pc.not_equal(new, old["content_hash"]).to_numpy()
    removes = np.zeros(table.num_rows, dtype=bool)
    buried = np.ones(standing.num_rows, dtype=bool)
    if feed:
        removes = table["removed"].to_numpy(zero_copy_only=False)
        late = np.zeros(table.num_rows, dtype=bool)
        newer = pc.greater(table["sequence"].filter(pa.array(known)), old["sequence"])
        late[known] = ~newer.to_numpy(zero_copy_only=False)
        differs &= ~late
        removes &= ~late
        buried[:] = False
        buried[place[known & (differs | removes)]] = True
    else:
        buried[place[known & ~differs]] = False
    fetch = table.filter(pa.array(differs & ~removes))
    kept = pa.table([fetch["row"], fetch["content_hash"]], schema=schemas.KEPT)
    gone = standing.filter(pa.array(buried))
    places = gone["row"].to_numpy()
    segments, counts = np.unique(places >> ordinals.SEGMENT_SHIFT, return_counts=True)
    changed = int((known & differs & ~removes).sum())
    added = int((~known & ~removes).sum())
    stats = {
        "added": added,
        "changed": changed,
        "removed": int(buried.sum()) - changed,
        "unchanged": standing.num_rows - int(buried.sum()),
        "without_effect": table.num_rows - added - changed if feed else 0,
        "buried": {str(n): c for n, c in zip(segments.tolist(), counts.tolist(), strict=True)},
    }
    tombstones = pa.table([pa.array(places)], schema=schemas.TOMBSTONES)
    return {
        "kept": Scatter(kept, fetch["split"].to_numpy()),
        "tombstones": buckets.scatter(tombstones, gone["id"]),
    }, stats


def stage(
    dataset: str,
    kind: str,
    ingested: Manifest,
    policy: str,
    standing: CurrentCorpus | None = None,
    feed: bool = False,
) -> Stage:
    """Assembles the stage for the corpus or the queries."""
    before = standing or CurrentCorpus({})
    return Stage(
        name=f"delta {kind}",
        version=VERSION,
        dataset=dataset,
        identity={
            "of": ingested.path,
            "policy": policy,
            "standing": {str(n): made.path for n, made in before.documents.items()},
            "tombstones": [made.path for made in before.tombstones],
        },
        tasks=plan(ingested, before),
        worker=WorkerSpec(Worker, {"kind": kind, "policy": policy, "feed": feed}),
        schemas={
            "dropped": schemas.DROPPED,
            **(
                {"kept": schemas.KEPT, "tombstones": schemas.TOMBSTONES} if kind == "corpus" else {}
            ),
        },
    )
