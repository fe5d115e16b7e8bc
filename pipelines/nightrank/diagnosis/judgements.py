"""Whether the judgements of a config speak of its documents and queries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nightrank.config.schema import Corpus, PipelineConfig, Queries
from nightrank.datasets.judgements import find_qrels, load_qrels, look_up
from nightrank.diagnosis.finding import Finding
from nightrank.diagnosis.store_access import input_reach
from nightrank.evaluation.coverage import Coverage
from nightrank.generations.results import manifests_of
from nightrank.inputs.formats import read_split
from nightrank.inputs.raw import id_name
from nightrank.inputs.splits import list_inputs, plan_splits
from nightrank.storage.log import Log
from nightrank.storage.reader import Reader
from nightrank.storage.store import Store

# An input up to this size is read for its ids, where nothing is published: a second or two.
WHOLE_BYTES = 64 << 20
CHECK = "judgements"


def judgements(
    config: PipelineConfig, store: Store | None, options: dict[str, Any]
) -> Iterator[Finding]:
    """What share of judged documents and queries is known.

    They are looked up in the lake's current generation; where there is none, in the inputs, as long
    as these are small.

    Args:
        config: with judgements.
        store: the lake; None where it does not answer.
        options: to open inputs with.
    """
    if not config.evaluate.qrels:
        return
    qrels = load_qrels(find_qrels(config.evaluate.qrels, options).url, options)
    documents, queries = (pc.unique(qrels[name]) for name in ("doc_id", "query_id"))
    entry = Log(store, "results").current() if store else None
    if store and entry:
        read = Reader(store)
        _, distinct, corpus = manifests_of(store, entry)
        asked = [
            read.table(ref, ["query_id"])["query_id"] for ref in distinct.files("members") if ref
        ]
        where = f"generation {entry.generation}"
        covered = [look_up(documents, corpus, read), _among("queries", queries, asked)]
    else:
        where, covered = "the inputs", []
        for kind, source, judged in (
            ("documents", config.corpus, documents),
            ("queries", config.queries, queries),
        ):
            size = input_reach(source.path, source.format, options, source.ignore)[1]
            if size > WHOLE_BYTES:
                found = f"{len(judged)} judged {kind}, not looked up in {size / 1e6:,.0f} MB"
                yield Finding(CHECK, "ok", found, "`run` says how many of them exist")
                continue
            covered.append(_among(kind, judged, _ids(source, options)))
    for one in covered:
        if one.warning:
            yield Finding(CHECK, "warn", one.warning, "correct the ids of one side")
        else:
            found = f"{one.share} judged {one.kind} {one.place}, by {where}"
            yield Finding(CHECK, "ok", found)


def _among(kind: Any, judged: pa.Array, ids: list[pa.ChunkedArray]) -> Coverage:
    """Looks judged ids up in all of some ids."""
    known = pa.array([False] * len(judged), pa.bool_())
    for some in ids:
        known = pc.or_(known, pc.is_in(judged, some))
    least = min(filter(None, (pc.min(some).as_py() for some in ids)), default="")
    return Coverage.of(kind, len(judged), judged, known, least)


def _ids(source: Corpus | Queries, options: dict[str, Any]) -> list[pa.ChunkedArray]:
    """The ids of an input."""
    kind = "corpus" if isinstance(source, Corpus) else "queries"
    splits = plan_splits(list_inputs(source.path, source.format, options), options)
    return [
        pa.chunked_array([batch.columns.column(id_name(kind))])
        for split in splits
        for batch in read_split(split, kind, source, options)
    ]
