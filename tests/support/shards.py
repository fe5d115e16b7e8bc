"""Small index shards, texts as token ids, and the definition of a search in plain Python."""

import math

import numpy as np
import pyarrow as pa

from nightrank.retrieval import faiss_index
from nightrank.retrieval.first_stage import OpenShard
from nightrank.storage.tokens import Tokens


def open_shard(vectors, ordinals, doc_ids, factory="Flat"):
    template, _ = faiss_index.train(factory, vectors, threads=1)
    index = faiss_index.add(template, vectors)
    return OpenShard(index, np.asarray(ordinals, np.int64), pa.array(doc_ids, pa.string()), vectors)


def split(vectors, doc_ids, where):
    shards = []
    for i in range(int(where.max(initial=0)) + 1):
        mine = np.flatnonzero(where == i)
        shards.append(open_shard(vectors[mine], mine, [doc_ids[j] for j in mine]))
    return shards


def brute_force(queries, vectors, doc_ids, depth):
    """The definition, in plain Python: math.fsum is the correctly rounded sum."""
    rows = []
    for q, query in enumerate(queries):
        scored = [
            (float(np.float32(math.fsum(float(a) * float(b) for a, b in zip(query, v)))), d)  # noqa: B905
            for v, d in zip(vectors, doc_ids, strict=True)
        ]
        scored.sort(key=lambda pair: (pair[0], pair[1].encode()), reverse=True)
        rows += [(q, d, s, i + 1) for i, (s, d) in enumerate(scored[:depth])]
    return rows


def as_rows(table):
    return list(
        zip(*(table[c].to_pylist() for c in ("query", "doc_id", "score", "rank")), strict=True)
    )


def texts(generator, count, terms, longest):
    """Common terms and rare ones, repeats, empty texts; ids up to the largest there is."""
    lengths = generator.integers(0, longest + 1, count)
    ids = (terms * generator.random(int(lengths.sum())) ** 3).astype(np.int64)
    spread = (ids * (2**31 - 1) // max(1, terms - 1)).astype(np.int32)
    return Tokens(spread, np.append(0, np.cumsum(lengths)).astype(np.int64))
