"""Reads and checks the user's files, and says what was refused and why.

In: input splits (files, byte ranges or row groups). Out: `ids` of accepted rows (scattered by id
hash), `rejects`, and of queries `rows` (accepted, scattered by text hash). Cardinality: one shard
per split. Knows nothing about: duplicates, segments, models.

Documents' texts are hashed here and left where they are: on most nights nearly all of them stand in
the lake already. `extract` fetches those that do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nightrank.config import Corpus, Queries
from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.stages.judgements import load_qrels
from nightrank.storage import buckets, schemas
from nightrank.storage.dataset import Payload, shard_names
from nightrank.storage.formats import read_split
from nightrank.storage.inputs import Split
from nightrank.storage.raw import rejects_schema
from nightrank.storage.reader import Reader
from nightrank.storage.scatter import Scatter
from nightrank.storage.validation import accepted_schema, validate

VERSION = 3


def plan(splits: tuple[Split, ...]) -> tuple[Task, ...]:
    """One task per split."""
    names = shard_names(len(splits))
    return tuple(Task(name, {"split": split}) for name, split in zip(names, splits, strict=True))


class Worker:
    """Reads, checks and buckets one split."""

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
        """Streams a split: memory is bounded by ids and rejects (and queries), not by documents."""
        schema = accepted_schema(self._kind, self._source)
        rejects: list[pa.Table] = []
        ids: list[pa.Table] = []
        stats: dict[str, Any] = {"rows_in": 0, "accepted": 0, "rejected": 0, "unselected": 0}
        stats |= {"lines": 0, "reasons": {}, "id_type": "", "where": "", "deletes": 0}
        present: set[str] = set()
        id_column = schema.names[0]
        hash_column = "content_hash" if self._kind == "corpus" else "query_hash"

        def accepted_rows() -> Iterator[pa.Table]:
            for batch in read_split(task.args["split"], self._kind, self._source, self._options):
                accepted, refused = validate(batch, self._kind, self._source)
                stats["id_type"], stats["where"] = batch.id_type, batch.where
                present.update(batch.present)
                stats["rows_in"] += accepted.num_rows + refused.num_rows
                stats["rejected"] += refused.num_rows
                for row in (accepted["row"], refused["row"]):
                    stats["lines"] = max(stats["lines"], (pc.max(row).as_py() or 0) + 1)
                for count in pc.value_counts(refused["reason"]).to_pylist():
                    reason = count["values"]
                    stats["reasons"][reason] = stats["reasons"].get(reason, 0) + count["counts"]
                if refused.num_rows and "example" not in stats:
                    stats["example"] = _told(refused, batch.where)
                rejects.append(refused)
                if self._judged is not None:
                    judged = accepted.filter(pc.is_in(accepted[id_column], self._judged))
                    stats["unselected"] += accepted.num_rows - judged.num_rows
                    accepted = judged
                stats["accepted"] += accepted.num_rows
                stats["rate_rows"] = stats["rows_in"]
                columns = [accepted[id_column], accepted[hash_column], accepted["row"]]
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


def _told(rejects: pa.Table, where: str) -> str:
    """The first reject, for a person."""
    first = rejects.slice(0, 1).to_pylist()[0]
    row = f", row {first['row']}" if first["row"] >= 0 else ""
    return f"{where}{row}: {first['detail']}"


def ids_schema(source: Corpus | Queries) -> pa.Schema:
    """`schemas.IDS`, of a change feed with two columns more."""
    feed = isinstance(source, Corpus) and source.feed
    return schemas.FEED_IDS if feed else schemas.IDS


def stage(
    dataset: str,
    source: Corpus | Queries,
    splits: tuple[Split, ...],
    options: dict[str, Any],
    qrels: str | None = None,
) -> Stage:
    """Assembles the stage; `qrels` limits queries to the judged ones."""
    kind = "corpus" if isinstance(source, Corpus) else "queries"
    config = {
        "kind": kind,
        "source": source.model_dump(mode="json"),
        "options": options,
        "qrels": qrels,
    }
    return Stage(
        name=f"ingest {kind}",
        version=VERSION,
        dataset=dataset,
        identity={"splits": [split.to_dict() for split in splits]},
        tasks=plan(splits),
        worker=WorkerSpec(Worker, config),
        schemas={
            "ids": ids_schema(source),
            "rejects": rejects_schema(),
            **({"rows": accepted_schema(kind, source)} if kind == "queries" else {}),
        },
    )
