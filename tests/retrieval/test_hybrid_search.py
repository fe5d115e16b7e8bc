"""Both lists of a group of shards beside a loop over queries that holds everything at once."""

import dataclasses

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from nightrank.retrieval import bm25, hybrid
from nightrank.retrieval.first_stage import search_group
from nightrank.retrieval.hybrid_search import search_both
from nightrank.retrieval.scoring import exact_scores
from tests.support.shards import open_shard, texts


def one_by_one(queries, terms, shards, depth, parameters):
    """Every shard's lists a query at a time, then the best of either by its definition."""
    rows = []
    for shard in shards:
        dense = search_group(queries, [shard], depth, parameters)
        for query in range(len(queries)):
            mine = dense.filter(pa.array(dense["query"].to_numpy() == query))
            found = set(np.searchsorted(shard.ordinals, mine["ordinal"].to_numpy()).tolist())
            lexical = shard.postings.scores(terms[query])
            if shard.tombstoned is not None:
                lexical[shard.tombstoned] = 0
            ordered = np.sort(lexical)[::-1]
            last = ordered[depth - 1] if len(ordered) >= depth else 0
            for row in sorted(found | set(np.flatnonzero((lexical > 0) & (lexical >= last)))):
                of, at = np.array([query], np.int32), np.array([row], np.int64)
                score = exact_scores(queries, shard.vectors, of, at)[0]
                place = (query, int(shard.ordinals[row]), shard.doc_ids[int(row)].as_py())
                rows.append((*place, float(score), float(lexical[row]), row in found))
    kept = set()
    for query in range(len(queries)):
        for column, inside in ((3, lambda r: r[5]), (4, lambda r: r[4] > 0)):
            mine = [r for r in rows if r[0] == query and inside(r)]
            mine.sort(key=lambda r: (r[column], r[2].encode()), reverse=True)  # noqa: B023
            kept |= set(mine[:depth])
    return kept


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 4),
    st.sampled_from([1, 4, 30]),
    st.floats(0, 1),
    st.sampled_from(["Flat", "IVF4,Flat", "SQ8"]),
)
@settings(deadline=None, max_examples=40)
def test_both_lists_are_those_of_a_loop_over_queries(seed, count, depth, share, factory):
    generator = np.random.default_rng(seed)
    documents = texts(generator, 300, 40, 20)
    statistics = bm25.count([documents])
    # Few distinct vectors and short texts: ties at every cut.
    distinct = generator.integers(-8, 9, (30, 6)).astype(np.float32) / 8
    vectors = distinct[generator.integers(0, 30, 300)]
    doc_ids = [f"d{i}" for i in generator.permutation(300)]
    queries = generator.integers(-8, 9, (5, 6)).astype(np.float32) / 8
    terms = texts(generator, 5, 60, 12)
    where, shards = generator.integers(0, count, 300), []
    for number in range(count):
        mine = np.flatnonzero(where == number)
        shard = open_shard(vectors[mine], mine, [doc_ids[i] for i in mine], factory)
        postings = bm25.build(documents.take(mine), statistics, 0.9, 0.4)
        tombstoned = generator.random(len(mine)) < share if share < 0.5 else None
        shards.append(dataclasses.replace(shard, postings=postings, tombstoned=tombstoned))
    parameters = "nprobe=2" if factory.startswith("IVF") and count == 1 else ""
    got = search_both(queries, terms, shards, depth, parameters)
    columns = ("query", "ordinal", "doc_id", hybrid.DENSE, hybrid.BM25, hybrid.FOUND_BY_VECTOR)
    found = list(zip(*(got[name].to_pylist() for name in columns), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == one_by_one(queries, terms, shards, depth, parameters)
    assert (np.diff(got["query"].to_numpy()) >= 0).all()


def test_no_queries_and_no_shared_words_give_what_is_there():
    vectors = np.eye(3, dtype=np.float32)
    documents = texts(np.random.default_rng(0), 3, 5, 4)
    postings = bm25.build(documents, bm25.count([documents]), 0.9, 0.4)
    whole = open_shard(vectors, [0, 1, 2], ["a", "b", "c"])
    shard = dataclasses.replace(whole, postings=postings)
    none = documents.take([])
    assert search_both(vectors[:0], none, [shard], 2).num_rows == 0
    unknown = dataclasses.replace(documents.take([0]), ids=np.full(4, 7, np.int32))
    got = search_both(vectors[:1], unknown, [shard], 2)
    assert got["doc_id"].to_pylist() == ["a", "c"]
    assert not got[hybrid.BM25].to_numpy().any()
