"""Checks that the judgements of a config refer to its documents and queries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nightrank.config.schema import Corpus, PipelineConfig, Queries
from nightrank.datasets.judgements import find_qrels, load_qrels, look_up
from nightrank.diagnosis.finding import Finding
from nightrank.diagnosis.store_access import input_summary
from nightrank.evaluation.coverage import Coverage
from nightrank.generations.results import manifests_of
from nightrank.inputs.formats import read_split
from nightrank.inputs.raw import id_name
from nightrank.inputs.splits import list_inputs, plan_splits
from nightrank.storage.filesystem import StorageOptions
from nightrank.storage.log import Log
from nightrank.storage.reader import Reader
from nightrank.storage.store import Store

# Without a published generation, inputs up to this size are read for ids: a second or two.
WHOLE_BYTES = 64 << 20
CHECK = "judgements"


def judgements(
    config: PipelineConfig, store: Store | None, options: StorageOptions
) -> Iterator[Finding]:
    """The share of judged documents and queries that exist.

    They are looked up in the current generation of the lake, or without one in the inputs, if these
    are small.

    Args:
        config: the experiment.
        store: the lake; None where it does not answer.
        options: of the store of the inputs.
    """
    if not config.evaluate.qrels:
        return
    qrels = load_qrels(find_qrels(config.evaluate.qrels, options).url, options)
    documents, queries = (pc.unique(qrels[name]) for name in ("doc_id", "query_id"))
    entry = Log(store, "results").current() if store else None
    if store and entry:
        read = Reader(store)
        _, distinct, corpus = manifests_of(store, entry)
        query_ids = [
            read.table(ref, ["query_id"])["query_id"] for ref in distinct.files("members") if ref
        ]
        where = f"generation {entry.generation}"
        coverages = [look_up(documents, corpus, read), _coverage("queries", queries, query_ids)]
    else:
        where, coverages = "the inputs", []
        for kind, source, judged in (
            ("documents", config.corpus, documents),
            ("queries", config.queries, queries),
        ):
            size = input_summary(source.path, source.format, options, source.ignore).size
            if size > WHOLE_BYTES:
                found = f"{len(judged)} judged {kind}, not looked up in {size / 1e6:,.0f} MB"
                yield Finding(CHECK, "ok", found, "`run` says how many of them exist")
                continue
            coverages.append(_coverage(kind, judged, _ids(source, options)))
    for coverage in coverages:
        if coverage.warning:
            do = "correct the ids of the judgements or of the inputs"
            yield Finding(CHECK, "warn", coverage.warning, do)
        else:
            found = f"{coverage.share} judged {coverage.kind} {coverage.place}, by {where}"
            yield Finding(CHECK, "ok", found)


def _coverage(kind: Any, judged: pa.Array, ids: list[pa.ChunkedArray]) -> Coverage:
    """Looks up judged ids (string[n]) in the columns of `ids`."""
    known = pa.array([False] * len(judged), pa.bool_())
    for column in ids:
        known = pc.or_(known, pc.is_in(judged, column))
    least = min(filter(None, (pc.min(column).as_py() for column in ids)), default="")
    return Coverage.of(kind, len(judged), judged, known, least)


def _ids(source: Corpus | Queries, options: StorageOptions) -> list[pa.ChunkedArray]:
    """The ids of an input."""
    kind = "corpus" if isinstance(source, Corpus) else "queries"
    splits = plan_splits(list_inputs(source.path, source.format, options), options)
    return [
        pa.chunked_array([batch.columns.column(id_name(kind))])
        for split in splits
        for batch in read_split(split, kind, source, options)
    ]
