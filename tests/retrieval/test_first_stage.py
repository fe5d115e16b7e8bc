"""Group search against a brute force in float64, over any split into shards."""

import dataclasses
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightrank.errors import NightrankError
from nightrank.retrieval import faiss_index, first_stage, ranking, scoring
from nightrank.retrieval.first_stage import OpenShard, search_group
from nightrank.retrieval.recall import recall
from nightrank.retrieval.scoring import exact_scores
from tests.support.shards import as_rows, brute_force, open_shard, split


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 90), st.integers(1, 4), st.sampled_from([1, 3, 25])
)
@settings(deadline=None, max_examples=60)
def test_flat_search_equals_brute_force_for_any_sharding(seed, num_documents, num_shards, depth):
    generator = np.random.default_rng(seed)
    # Few distinct vectors, so that most scores are tied; multiples of 1/8, so that sums are exact.
    distinct = generator.integers(-8, 9, (max(1, num_documents // 6), 5)).astype(np.float32) / 8
    vectors = distinct[generator.integers(0, len(distinct), num_documents)]
    queries = generator.integers(-8, 9, (4, 5)).astype(np.float32) / 8
    doc_ids = [f"d{i}" for i in generator.permutation(num_documents)]
    where = generator.integers(0, num_shards, num_documents)
    got = search_group(queries, split(vectors, doc_ids, where), depth)
    assert got.schema == first_stage.SCHEMA
    assert as_rows(got) == brute_force(queries, vectors, doc_ids, depth)
    assert [doc_ids[o] for o in got["ordinal"].to_pylist()] == got["doc_id"].to_pylist()


@given(
    st.integers(0, 2**32 - 1), st.sampled_from([3, 17, 64, 384]), st.sampled_from([1e-3, 1, 1e4])
)
@settings(deadline=None, max_examples=25)
def test_any_sharding_and_any_block_size_give_identical_bytes(seed, dimension, scale):
    generator = np.random.default_rng(seed)
    vectors = (generator.normal(size=(300, dimension)) * scale).astype(np.float32)
    # Near-duplicates: float32 in FAISS orders them otherwise than the exact scores do.
    vectors[100:200] = vectors[:100] * np.float32(1 + 2**-22)
    vectors[200:250] = vectors[:50]
    queries = generator.normal(size=(6, dimension)).astype(np.float32)
    doc_ids = [f"d{i}" for i in range(300)]
    whole = search_group(queries, split(vectors, doc_ids, np.zeros(300, int)), 20)
    parts = split(vectors, doc_ids, generator.integers(0, 5, 300))
    assert search_group(queries, parts, 20).equals(whole)
    for q in range(6):
        alone = search_group(queries[q : q + 1], parts, 20)
        mine = whole.filter(pa.array(whole["query"].to_numpy() == q))
        assert alone.drop_columns(["query"]).equals(mine.drop_columns(["query"]))


@pytest.mark.parametrize("block", [1, 50, 1000])
def test_bounded_blocks_do_not_change_the_result(block, monkeypatch):
    generator = np.random.default_rng(0)
    vectors = np.repeat(generator.normal(size=(20, 8)).astype(np.float32), 15, axis=0)
    queries = generator.normal(size=(9, 8)).astype(np.float32)
    shards = split(vectors, [f"d{i}" for i in range(300)], np.arange(300) % 2)
    whole = search_group(queries, shards, 7)
    monkeypatch.setattr(first_stage, "BLOCK_PAIRS", block)
    monkeypatch.setattr(scoring, "PRODUCT_BYTES", block)
    assert search_group(queries, shards, 7).equals(whole)


def test_a_corpus_of_one_vector_over_and_over_is_cut_by_doc_id():
    vectors = np.full((500, 4), 0.5, np.float32)
    doc_ids = [f"d{i:03d}" for i in np.random.default_rng(2).permutation(500)]
    got = search_group(np.ones((2, 4), np.float32), split(vectors, doc_ids, np.arange(500) % 3), 5)
    assert got["doc_id"].to_pylist() == ["d499", "d498", "d497", "d496", "d495"] * 2


def test_the_fetch_is_doubled_only_where_the_margin_ends_in_a_tie(monkeypatch):
    vectors = np.zeros((400, 2), np.float32)
    vectors[:, 0] = 1
    vectors[:, 1] = np.arange(400) / 64
    fetched = []
    search = faiss_index.search

    def spy(index, queries, k, parameters):
        fetched.append((len(queries), k))
        return search(index, queries, k, parameters)

    monkeypatch.setattr(faiss_index, "search", spy)
    queries = np.array([[0, 1], [1, 0]], np.float32)  # all scores distinct; all scores tied
    search_group(queries, [open_shard(vectors, np.arange(400), [f"{i}" for i in range(400)])], 40)
    assert fetched == [(2, 50), (1, 100), (1, 200), (1, 400)]


def test_scores_come_from_the_stored_vectors_whatever_the_index(monkeypatch):
    vectors = np.random.default_rng(3).normal(size=(800, 16)).astype(np.float32)
    doc_ids = [f"d{i}" for i in range(800)]
    for factory, parameters in [("SQ8", ""), ("PQ8x4fs", ""), ("IVF16,Flat", "nprobe=4")]:
        shard = open_shard(vectors, np.arange(800), doc_ids, factory)
        got = search_group(vectors[:30], [shard], 10, parameters)
        query, row = got["query"].to_numpy(), got["ordinal"].to_numpy()
        assert (
            got["score"].to_numpy().tobytes()
            == exact_scores(vectors, vectors, query, row).tobytes()
        )
        assert (np.diff(query) >= 0).all() and got["rank"].to_pylist()[:10] == list(range(1, 11))


def test_empty_shards_no_shards_and_no_queries_give_what_is_there():
    vectors = np.eye(3, dtype=np.float32)
    full = open_shard(vectors, [5, 6, 7], ["a", "b", "c"])
    empty = open_shard(vectors[:0], [], [])
    assert search_group(vectors, [empty], 9).num_rows == 0
    assert search_group(vectors, [], 9).schema == first_stage.SCHEMA
    assert search_group(vectors[:0], [full], 9).num_rows == 0
    both = search_group(vectors[:1], [empty, full], 9)
    assert as_rows(both) == [(0, "a", 1.0, 1), (0, "c", 0.0, 2), (0, "b", 0.0, 3)]


def test_a_shard_whose_parts_differ_in_rows_is_refused():
    vectors = np.eye(3, dtype=np.float32)
    whole = open_shard(vectors, [0, 1, 2], ["a", "b", "c"])
    with pytest.raises(
        NightrankError, match=r"E_CORRUPT.*index 3, ordinals 3, doc_ids 2, vectors 3"
    ):
        OpenShard(whole.index, whole.ordinals, whole.doc_ids[:2], vectors)


def test_a_document_in_two_shards_is_refused():
    shard = open_shard(np.eye(2, dtype=np.float32), [0, 1], ["a", "b"])
    with pytest.raises(NightrankError, match="twice"):
        search_group(np.eye(2, dtype=np.float32), [shard, shard], 5)


@pytest.mark.parametrize("dimension", [1, 2, 3, 7, 8, 383, 384, 1000])
def test_exact_scores_are_within_half_a_float32_step_of_the_true_sum(dimension):
    generator = np.random.default_rng(dimension)
    queries, vectors = generator.normal(size=(2, 50, dimension)).astype(np.float32)
    rows = np.arange(50)
    truth = [math.fsum(q.astype(float) * v) for q, v in zip(queries, vectors, strict=True)]
    got = exact_scores(queries, vectors, rows.astype(np.int32), rows)
    assert np.array_equal(got, np.array(truth).astype(np.float32))


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0), st.sampled_from(["Flat", "IVF4,Flat"]))
@settings(deadline=None, max_examples=40)
def test_tombstoned_rows_are_as_if_they_had_never_been(seed, share, factory):
    generator = np.random.default_rng(seed)
    distinct = generator.integers(-8, 9, (40, 5)).astype(np.float32) / 8
    vectors = distinct[generator.integers(0, len(distinct), 300)]
    queries = generator.integers(-8, 9, (4, 5)).astype(np.float32) / 8
    doc_ids = [f"d{i}" for i in generator.permutation(300)]
    tombstoned = generator.random(300) < share
    whole = open_shard(vectors, np.arange(300), doc_ids, factory)
    marked = dataclasses.replace(whole, tombstoned=tombstoned)
    parameters = "" if factory == "Flat" else "nprobe=2"
    got = search_group(queries, [marked], 7, parameters)
    every = search_group(queries, [whole], 300, parameters)
    live = every.filter(pa.array(~tombstoned[every["ordinal"].to_numpy()]))
    assert got.equals(ranking.rank(live, 7).select(got.column_names))


def test_recall_counts_what_a_search_misses():
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((400, 8)).astype(np.float32)
    queries, ids = (
        generator.standard_normal((6, 8)).astype(np.float32),
        [f"{i}" for i in range(400)],
    )
    flat = open_shard(vectors, np.arange(400), ids)
    assert recall(queries, [flat], 10) == (60, 60)
    coarse = open_shard(vectors, np.arange(400), ids, "IVF8,Flat")
    hits, wanted = recall(queries, [coarse], 10, "nprobe=1")
    found = search_group(queries, [coarse], 10, "nprobe=1")
    best = search_group(queries, [flat], 10)
    pairs = [set(zip(*(t[c].to_pylist() for c in ("query", "doc_id")))) for t in (found, best)]  # noqa: B905
    assert (hits, wanted) == (len(pairs[0] & pairs[1]), 60) and 0 < hits < 60
    tombstoned = dataclasses.replace(flat, tombstoned=np.arange(400) >= 4)
    assert recall(queries, [tombstoned], 10) == (24, 24)
