"""Reads and checks the user's files, and says what was refused and why.

In: bundles of input splits (files, byte ranges or row groups). Out: `ids` of accepted rows
(scattered by id hash), `rejects`, and of queries `rows` (accepted, scattered by text hash).
Cardinality: one shard per bundle. Knows nothing about: duplicates, segments, models.

Rows are numbered through a bundle, in the order of its splits: the record's `lines` says how many
each split takes. A split that is refused as a whole has the row -1 minus its place in the bundle.

Documents' texts are hashed here and left where they are: on most nights nearly all of them stand in
the lake already. `extract` fetches those that do not. A bundle whose files are unchanged is not
read again: its shard is copied from the earlier dataset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nightrank.config.schema import Corpus, Queries
from nightrank.datasets.judgements import load_qrels
from nightrank.datasets.row_schemas import ids_schema
from nightrank.errors import NightrankError
from nightrank.inputs.bundles import Bundle, bundled, plain
from nightrank.inputs.formats import read_split
from nightrank.inputs.raw import RawBatch, id_name, rejects_schema
from nightrank.inputs.splits import Split
from nightrank.inputs.validation import accepted_schema, validate
from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.storage import buckets
from nightrank.storage.dataset import FileRef, Manifest, Payload, Record, shard_names
from nightrank.storage.fingerprint import canonical
from nightrank.storage.reader import Reader
from nightrank.storage.scatter import Scatter

VERSION = 4


def plan(splits: tuple[Split, ...], earlier: Mapping[bytes, Record]) -> tuple[Task, ...]:
    """One task per bundle, with the shard that was made of the same bundle before.

    Args:
        splits: in the order of the input.
        earlier: shards by their bundle, see `_earlier`.
    """
    bundles = bundled(splits)
    tasks = []
    for name, bundle in zip(shard_names(len(bundles)), bundles, strict=True):
        args: dict[str, Any] = {"bundle": bundle}
        if known := earlier.get(canonical(plain(bundle))):
            args["earlier"] = (known.files, known.stats)
        tasks.append(Task(name, args))
    return tuple(tasks)


class Worker:
    """Reads, checks and buckets one bundle."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self._kind = config["kind"]
        make = Corpus if self._kind == "corpus" else Queries
        self._source = make.model_validate(config["source"])
        self._options = config["options"]
        self._judged: pa.Array | None = None
        if config["qrels"]:
            qrels = load_qrels(config["qrels"], self._options)
            self._judged = pc.unique(qrels["query_id"])

    def __call__(self, task: Task, read: Reader) -> Payload:
        """Copies what is known, or streams the bundle's files.

        Memory is bounded by ids and rejects (and queries), not by documents.
        """
        if "earlier" in task.args:
            files, stats = task.args["earlier"]
            try:
                return self._copied(files, stats, read)
            except NightrankError as error:
                if error.code != "E_CORRUPT":
                    raise  # A damaged shard is no loss: the files are here.
        return self._read(task.args["bundle"])

    def _copied(self, files: dict[str, FileRef], stats: dict[str, Any], read: Reader) -> Payload:
        """The content of an earlier shard of the same bundle."""
        table = _scattered(files["ids"], ids_schema(self._source), read)
        made: dict[str, Any] = {}
        if self._kind == "queries":
            rows = _scattered(files["rows"], accepted_schema(self._kind, self._source), read)
            made["rows"] = Scatter(rows, buckets.first_byte(rows["query_hash"]))
        made["ids"] = buckets.scatter(table, table["id"])
        made["rejects"] = read.table(files["rejects"])
        return Payload(made, {**stats, "rate_rows": 0, "bundles_reused": 1})

    def _read(self, bundle: Bundle) -> Payload:
        rejects: list[pa.Table] = []
        ids: list[pa.Table] = []
        stats: dict[str, Any] = {"rows_in": 0, "accepted": 0, "rejected": 0, "unselected": 0}
        stats |= {"lines": [], "reasons": {}, "id_types": {}, "deletes": 0, "rate_rows": 0}
        present: set[str] = set()
        schema = accepted_schema(self._kind, self._source)
        hash_column = "content_hash" if self._kind == "corpus" else "query_hash"

        def accepted_rows() -> Iterator[pa.Table]:
            for place, split in enumerate(bundle):
                before = sum(stats["lines"])
                stats["lines"].append(0)
                for batch in read_split(split, self._kind, self._source, self._options):
                    accepted, refused = self._checked(batch, stats)
                    present.update(batch.present)
                    accepted = _renumbered(accepted, before, place)
                    rejects.append(_renumbered(refused, before, place))
                    columns = [accepted[schema.names[0]], accepted[hash_column], accepted["row"]]
                    if isinstance(self._source, Corpus) and self._source.feed:
                        removed = pc.equal(accepted["op"], "delete")
                        stats["deletes"] += pc.sum(removed).as_py() or 0
                        columns += [accepted["sequence"], removed]
                    ids.append(pa.table(columns, schema=ids_schema(self._source)))
                    yield accepted

        files: dict[str, Any] = {}
        if self._kind == "queries":
            rows = pa.concat_tables([schema.empty_table(), *accepted_rows()])
            files["rows"] = Scatter(rows, buckets.first_byte(rows["query_hash"]))
        else:
            for _ in accepted_rows():
                pass
        table = pa.concat_tables([ids_schema(self._source).empty_table(), *ids])
        files["ids"] = buckets.scatter(table, table["id"])
        stats["columns"] = sorted(present)
        files["rejects"] = pa.concat_tables([rejects_schema().empty_table(), *rejects])
        return Payload(files, stats)

    def _checked(self, batch: RawBatch, stats: dict[str, Any]) -> tuple[pa.Table, pa.Table]:
        """Accepted rows and rejects of a batch, counted; without queries that are not judged."""
        accepted, refused = validate(batch, self._kind, self._source)
        # Of all rows, judged or not: later splits of the file count on from here.
        stats["lines"][-1] = max(stats["lines"][-1], batch.next_row)
        stats["id_types"].setdefault(batch.id_type, batch.where)
        stats["rows_in"] += accepted.num_rows + refused.num_rows
        stats["rate_rows"] = stats["rows_in"]
        stats["rejected"] += refused.num_rows
        for count in pc.value_counts(refused["reason"]).to_pylist():
            reason = count["values"]
            stats["reasons"][reason] = stats["reasons"].get(reason, 0) + count["counts"]
        if refused.num_rows and "example" not in stats:
            stats["example"] = _example(refused, batch.where)
        if self._judged is not None:
            judged = accepted.filter(pc.is_in(accepted[id_name(self._kind)], self._judged))
            stats["unselected"] += accepted.num_rows - judged.num_rows
            accepted = judged
        stats["accepted"] += accepted.num_rows
        return accepted, refused


def _renumbered(table: pa.Table, before: int, place: int) -> pa.Table:
    """Rows by their number in the bundle; -1, a whole split, by the split's place in it."""
    rows = table["row"]
    rows = pc.if_else(pc.less(rows, 0), -1 - place, pc.add(rows, before)).cast(pa.int64())
    return table.set_column(table.schema.get_field_index("row"), "row", rows)


def _scattered(ref: FileRef, schema: pa.Schema, read: Reader) -> pa.Table:
    """All rows of a scatter file."""
    return read.ranges(ref, ref.ranges) if ref.ranges else schema.empty_table()


def _earlier(made: Manifest | None, identity: dict[str, Any]) -> dict[bytes, Record]:
    """Shards of an earlier dataset by their bundle, where the same settings made them."""
    if made is None or made.version != VERSION or made.identity["source"] != identity["source"]:
        return {}
    return {
        canonical(bundle): record
        for bundle, record in zip(made.identity["bundles"], made.shards, strict=True)
    }


def _example(rejects: pa.Table, where: str) -> str:
    """The first reject, for a person."""
    first = rejects.slice(0, 1).to_pylist()[0]
    row = f", row {first['row']}" if first["row"] >= 0 else ""
    return f"{where}{row}: {first['detail']}"


def stage(
    dataset: str,
    source: Corpus | Queries,
    splits: tuple[Split, ...],
    options: dict[str, Any],
    source_id: str,
    qrels: str | None = None,
    earlier: Manifest | None = None,
) -> Stage:
    """Assembles the stage.

    Args:
        dataset: its folder.
        source: the section of the config.
        splits: of the input.
        options: storage options.
        source_id: of the settings that decide what becomes of rows: equal if equal files give equal
            shards.
        qrels: limits queries to the judged ones.
        earlier: an ingest of the same input before, whose shards may be copied.
    """
    kind = "corpus" if isinstance(source, Corpus) else "queries"
    config = {
        "kind": kind,
        "source": source.model_dump(mode="json"),
        "options": options,
        "qrels": qrels,
    }
    identity = {"source": source_id, "bundles": [plain(bundle) for bundle in bundled(splits)]}
    return Stage(
        name=f"ingest {kind}",
        version=VERSION,
        dataset=dataset,
        identity=identity,
        tasks=plan(splits, _earlier(earlier, identity)),
        worker=WorkerSpec(Worker, config),
        schemas={
            "ids": ids_schema(source),
            "rejects": rejects_schema(),
            **({"rows": accepted_schema(kind, source)} if kind == "queries" else {}),
        },
    )
