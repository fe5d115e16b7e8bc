"""Reads and checks the user's files, and says what was refused and why.

In: bundles of input splits (files, byte ranges or row groups). Out: `ids` of accepted rows
(scattered by id hash), `rejects`, and of queries `rows` (accepted, scattered by text hash).
Cardinality: one shard per bundle. Knows nothing about: duplicates, segments, models.

Rows are numbered through a bundle, in the order of its splits: the record's `lines` says how many
each split takes. A split that is refused as a whole has the row -1 minus its place in the bundle.

Documents' texts are hashed here and left where they are: in most runs nearly all of them are in
the lake already. `extract` fetches those that do not. A bundle whose files are unchanged is not
read again: its shard is copied from the earlier dataset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
from nightrank.runtime.identity import outside_identity
from nightrank.runtime.stage import Declaration, Task
from nightrank.storage import buckets
from nightrank.storage.dataset import FileRef, Manifest, Payload, Record, shard_names
from nightrank.storage.fingerprint import canonical
from nightrank.storage.reader import Reader
from nightrank.storage.scatter import Scatter


@dataclass(frozen=True)
class Inputs:
    """What is read.

    Attributes:
        source_id: of the settings that decide what becomes of rows: equal if equal files give equal
            shards.
        bundles: the input's splits, put together; plain, see `inputs.bundles`.
        source: the section of the config.
        splits: of the input.
        options: storage options.
        qrels: limits queries to the judged ones.
        earlier: an ingest of the same input before, whose shards may be copied.
    """

    source_id: str
    bundles: list[list[dict[str, Any]]]
    source: Corpus | Queries = outside_identity()
    splits: tuple[Split, ...] = outside_identity()
    options: dict[str, Any] = outside_identity()
    qrels: str | None = outside_identity(None)
    earlier: Manifest | None = outside_identity(None)

    @staticmethod
    def of(
        source_id: str,
        source: Corpus | Queries,
        splits: tuple[Split, ...],
        options: dict[str, Any],
        qrels: str | None = None,
        earlier: Manifest | None = None,
    ) -> Inputs:
        """The inputs, splits bundled."""
        bundles = [plain(bundle) for bundle in bundled(splits)]
        return Inputs(source_id, bundles, source, splits, options, qrels, earlier)


@dataclass(frozen=True)
class Settings:
    """The section of the config, storage options, and the judgements that limit queries."""

    source: Corpus | Queries
    options: dict[str, Any]
    qrels: str | None


@dataclass(frozen=True)
class Earlier:
    """A shard that was made of the same bundle before."""

    files: dict[str, FileRef]
    stats: dict[str, Any]


@dataclass(frozen=True)
class Args:
    """One bundle, with its shard of an earlier dataset where there is one."""

    bundle: Bundle
    earlier: Earlier | None


def tasks(inputs: Inputs) -> list[Task[Args]]:
    """One task per bundle."""
    bundles, known = bundled(inputs.splits), _reusable(inputs)
    units = []
    for name, bundle in zip(shard_names(len(bundles)), bundles, strict=True):
        record = known.get(canonical(plain(bundle)))
        earlier = Earlier(record.files, record.stats) if record else None
        units.append(Task(name, Args(bundle, earlier)))
    return units


class Worker:
    """Reads, checks and buckets one bundle."""

    def __init__(self, settings: Settings, threads: int) -> None:
        self._source, self._options = settings.source, settings.options
        self._kind = kind_of(self._source)
        self._judged: pa.Array | None = None
        if settings.qrels:
            qrels = load_qrels(settings.qrels, self._options)
            self._judged = pc.unique(qrels["query_id"])

    def __call__(self, task: Task[Args], read: Reader) -> Payload:
        """Copies what is known, or streams the bundle's files.

        Memory is bounded by ids and rejects (and queries), not by documents.
        """
        if task.args.earlier:
            try:
                return self._copied(task.args.earlier, read)
            except NightrankError as error:
                if error.code != "E_CORRUPT":
                    raise  # A damaged shard is no loss: the files are here.
        return self._read(task.args.bundle)

    def _copied(self, earlier: Earlier, read: Reader) -> Payload:
        """The content of an earlier shard of the same bundle."""
        files = earlier.files
        table = _scattered(files["ids"], ids_schema(self._source), read)
        content: dict[str, Any] = {}
        if self._kind == "queries":
            rows = _scattered(files["rows"], accepted_schema(self._kind, self._source), read)
            content["rows"] = Scatter(rows, buckets.first_byte(rows["query_hash"]))
        content["ids"] = buckets.scatter(table, table["id"])
        content["rejects"] = read.table(files["rejects"])
        return Payload(content, {**earlier.stats, "rate_rows": 0, "bundles_reused": 1})

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


def _reusable(inputs: Inputs) -> dict[bytes, Record]:
    """Shards of the earlier dataset by their bundle, where the same settings made them."""
    before = inputs.earlier
    if (
        before is None
        or before.version != STAGE.version
        or before.identity["source_id"] != inputs.source_id
    ):
        return {}
    return {
        canonical(bundle): record
        for bundle, record in zip(before.identity["bundles"], before.shards, strict=True)
    }


def _example(rejects: pa.Table, where: str) -> str:
    """The first reject, for a person."""
    first = rejects.slice(0, 1).to_pylist()[0]
    row = f", row {first['row']}" if first["row"] >= 0 else ""
    return f"{where}{row}: {first['detail']}"


def kind_of(source: Corpus | Queries) -> str:
    """`corpus` or `queries`."""
    return "corpus" if isinstance(source, Corpus) else "queries"


def schemas_of(inputs: Inputs) -> dict[str, pa.Schema]:
    """Schemas of the shards' tables."""
    kind = kind_of(inputs.source)
    rows = {"rows": accepted_schema(kind, inputs.source)} if kind == "queries" else {}
    return {"ids": ids_schema(inputs.source), "rejects": rejects_schema(), **rows}


STAGE = Declaration(
    name="ingest",
    version=4,
    pool="general",
    scales_with="input rows",
    tasks=tasks,
    worker=Worker,
    settings=lambda inputs: Settings(inputs.source, inputs.options, inputs.qrels),
    schemas=schemas_of,
)
