"""Collections with the lists that negatives are mined from and dev queries are scored on.

Lists are kept in the work folder, under a name that says what they were computed from.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nightrank.config.training import TrainConfig
from nightrank.models.registry import load_bi_encoder, load_tokenizer, resolve_bi_encoder
from nightrank.retrieval import bm25, faiss_index, hybrid, ranking
from nightrank.retrieval.first_stage import OpenShard
from nightrank.retrieval.hybrid_search import search_both
from nightrank.retrieval.terms import Analyzer
from nightrank.storage.fingerprint import fingerprint
from nightrank.training import judged_collections as judged
from nightrank.training.judged_collections import Collection, RankedLists

log = logging.getLogger("nightrank.train")
QUERIES_AT_ONCE = 256
K1, B = 0.9, 0.4


def read_collections(config: TrainConfig) -> list[Collection]:
    """The configured collections with their candidates."""
    data, collections = Path(config.data), []
    config.work_folder.mkdir(parents=True, exist_ok=True)
    for part in config.collections:
        teacher = None
        if part.teacher:
            teacher = judged.read_teacher(data / part.teacher, part.teacher_column)
        qrels = [data / path for path in part.qrels]
        paths = (data / part.corpus, data / part.queries)
        collection = judged.read_collection(part.name, *paths, qrels, teacher)
        collections.append(with_candidates(config, collection))
    return collections


def with_candidates(config: TrainConfig, collection: Collection) -> Collection:
    """A collection with its lists and candidates; retrieves them unless an earlier run did."""
    resolved = resolve_bi_encoder(
        config.encoder, revision=config.encoder_revision, precision=config.encoder_precision
    )
    key = {"encoder": resolved.identity(), "depth": config.candidates_depth, "bm25": [K1, B]}
    key |= {"texts": list(collection.texts.items()), "queries": list(collection.queries.items())}
    cache = config.work_folder / f"candidates-{collection.name}-{fingerprint(key)}.parquet"
    if not cache.exists():
        tokenizer, encoder = load_tokenizer(resolved), load_bi_encoder(resolved, config.threads)
        queries, texts = list(collection.queries.values()), list(collection.texts.values())
        log.info("%s: encoding %d documents", collection.name, len(texts))
        table = retrieve(
            (queries, encoder.encode(tokenizer(queries), "query")),
            (texts, encoder.encode(tokenizer(texts), "document")),
            min(config.candidates_depth, len(texts)),
        )
        unfinished = cache.with_suffix(".part")
        pq.write_table(table, unfinished)
        unfinished.replace(cache)
    table, depth = pq.read_table(cache), config.candidates_depth

    def ranked(part: pa.Table) -> RankedLists:
        columns = (part[name].to_numpy() for name in ("query", "ordinal", "score"))
        return RankedLists(list(collection.queries), list(collection.texts), *columns)

    dense, lexical = (
        ranked(ranking.rank(table.append_column("score", table[name]), depth))
        for name in (hybrid.DENSE, hybrid.BM25)
    )
    if not config.bm25_weight:
        return replace(collection, lists=[dense], candidates=dense)
    fused = ranked(hybrid.fuse(table, config.bm25_weight, depth))
    return replace(collection, lists=[dense, lexical], candidates=fused)


def retrieve(
    queries: tuple[list[str], NDArray[np.float32]],
    documents: tuple[list[str], NDArray[np.float32]],
    depth: int,
) -> pa.Table:
    """The candidates of the pipeline's own first stage, with a Flat index and exact search.

    Args:
        queries: texts, and vectors float32 [q, dimension].
        documents: texts, and vectors float32 [n, dimension].
        depth: results per query and list.

    Returns:
        As `hybrid_search.search_both`; ordinals are rows of `documents`.
    """
    analyze = Analyzer("english")
    terms = analyze(documents[0])
    postings = bm25.build(terms, bm25.count([terms]), K1, B)
    template, _ = faiss_index.train("Flat", documents[1][:0], 1)
    places = np.arange(len(documents[0]), dtype=np.int64)
    names = pa.array([f"{place:010d}" for place in places])
    index = faiss_index.add(template, documents[1])
    shard = OpenShard(index, places, names, documents[1], postings)
    parts = []
    for start in range(0, len(queries[0]), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        part = search_both(queries[1][rows], analyze(queries[0][rows]), [shard], depth)
        numbers = pa.array(part["query"].to_numpy() + np.int32(start))
        parts.append(part.set_column(0, "query", numbers))
    return pa.concat_tables(parts)
