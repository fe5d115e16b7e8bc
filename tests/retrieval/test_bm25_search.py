"""BM25 by blocks: the bits of a loop over queries, whatever the blocks, threads and shards."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightrank.retrieval import bm25, bm25_search
from nightrank.storage.tokens import Tokens
from tests.support.shards import texts


def one_by_one(postings, queries, depth, tombstoned):
    """The definition: the best scores of a query with ties, without tombstoned rows."""
    found = []
    for query in range(len(queries)):
        scores = postings.scores(queries[query])
        if tombstoned is not None:
            scores[tombstoned] = 0
        ordered = np.sort(scores)[::-1]
        last = ordered[depth - 1] if len(ordered) >= depth else 0
        rows = np.flatnonzero((scores > 0) & (scores >= last))
        found += [(query, int(row), scores[row].tobytes()) for row in rows]
    return found


def as_rows(found):
    return [(int(q), int(r), s.tobytes()) for q, r, s in zip(*found, strict=True)]


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 400),
    st.sampled_from([1, 7, 100]),
    st.sampled_from([1, 300, 1 << 21]),
    st.floats(0, 1),
)
@settings(deadline=None, max_examples=60)
def test_blocks_find_what_a_loop_finds_bit_for_bit(seed, documents, depth, block, share):
    generator = np.random.default_rng(seed)
    statistics = bm25.count([texts(generator, 50, 40, 20)])
    postings = bm25.build(texts(generator, documents, 40, 20), statistics, 0.9, 0.4)
    queries = texts(generator, 9, 60, 12)
    tombstoned = generator.random(documents) < share if share < 0.5 else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bm25_search, "BLOCK_POSTINGS", block)
        found = bm25_search.search(postings, queries, depth, 2, tombstoned)
    assert [column.dtype for column in found] == [np.int32, np.int64, np.float32]
    assert as_rows(found) == one_by_one(postings, queries, depth, tombstoned)


@pytest.mark.parametrize("order", ["scattered", "the best lie between the samples"])
def test_a_sample_that_misjudges_a_list_does_not_shorten_it(order):
    """Ten thousand documents of one term: the depth-th is guessed from every sixteenth score."""
    repeats = np.random.default_rng(0).integers(1, 60, 10_000)
    if order != "scattered":
        # scipy gives a row's documents backwards or forwards: high scores on sampled places only.
        repeats = np.where(np.arange(10_000) % 16 == 15, 60, repeats % 5 + 1)
    ids = np.full(int(repeats.sum()), 5, np.int32)
    documents = Tokens(ids, np.append(0, np.cumsum(repeats)).astype(np.int64))
    postings = bm25.build(documents, bm25.count([documents]), 0.9, 0.0)
    query = Tokens(np.array([5, 9], np.int32), np.array([0, 2], np.int64))
    for depth in (1, 50, 650, 9_999, 20_000):
        found = as_rows(bm25_search.search(postings, query, depth))
        assert found == one_by_one(postings, query, depth, None)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 10, 1 << 15]))
@settings(deadline=None, max_examples=30)
def test_scores_of_pairs_are_those_of_the_whole_list(seed, block):
    generator = np.random.default_rng(seed)
    documents = texts(generator, 120, 40, 20)
    postings = bm25.build(documents, bm25.count([documents]), 0.9, 0.4)
    queries = texts(generator, 6, 60, 12)
    query = generator.integers(0, 6, 50).astype(np.int32)
    row = generator.integers(0, 120, 50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bm25_search, "BLOCK_PAIRS", block)
        scores = bm25_search.score_pairs(postings, queries, query, row, 2)
    expected = [postings.scores(queries[q])[r] for q, r in zip(query, row, strict=True)]
    assert scores.tobytes() == np.array(expected, np.float32).tobytes()


def test_no_queries_no_documents_and_no_shared_words():
    nothing = Tokens(np.empty(0, np.int32), np.zeros(1, np.int64))
    some = Tokens(np.array([3, 4], np.int32), np.array([0, 1, 2, 2], np.int64))
    empty = bm25.build(nothing, bm25.count([]), 0.9, 0.4)
    full = bm25.build(some, bm25.count([some]), 0.9, 0.4)
    other = Tokens(np.array([8], np.int32), np.array([0, 1], np.int64))
    for postings, queries in [(empty, some), (full, nothing), (full, other)]:
        assert as_rows(bm25_search.search(postings, queries, 5)) == []
    pairs = np.zeros(1, np.int32), np.ones(1, np.int64)
    assert bm25_search.score_pairs(full, other, *pairs).tolist() == [0.0]
