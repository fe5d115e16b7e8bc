"""The total order: properties against a plain Python sort, and hand-computed fusion."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightrank.errors import NightrankError
from nightrank.retrieval.ranking import fuse, head_then_tail, merge, positions, rank

SCORES = st.sampled_from([-1.5, -0.0, 0.0, 0.25, 0.5, 1e-30, -1e-30, 3.0])
DOC_IDS = st.sampled_from(["d1", "d10", "d2", "D1", "é", "zz", "", "𝄞", "\uffee"])


def candidates(rows):
    query, doc_id, score = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "query": pa.array(query, pa.int32()),
            "doc_id": pa.array(doc_id, pa.string()),
            "score": pa.array(score, pa.float32()),
            "ordinal": pa.array(range(len(rows)), pa.int64()),
        }
    )


@st.composite
def rows(draw):
    pairs = draw(st.sets(st.tuples(st.integers(0, 4), DOC_IDS), max_size=30))
    return [(q, d, draw(SCORES)) for q, d in sorted(pairs)]


def plain(rows, depth):
    out = []
    for q in sorted({r[0] for r in rows}):
        mine = [r for r in rows if r[0] == q]
        mine.sort(key=lambda r: (r[2], r[1].encode()), reverse=True)
        out += [(q, d, s, i + 1) for i, (_, d, s) in enumerate(mine[:depth])]
    return out


@given(rows(), st.integers(1, 12))
@settings(deadline=None, max_examples=150)
def test_rank_is_a_plain_sort_by_score_then_doc_id_bytes_both_descending(data, depth):
    got = rank(candidates(data), depth).to_pydict()
    columns = zip(got["query"], got["doc_id"], got["score"], got["rank"], strict=True)
    exact = [(q, d, np.float32(s), r) for q, d, s, r in plain(data, depth)]
    assert [(q, d, np.float32(s), r) for q, d, s, r in columns] == exact


@given(rows(), st.integers(1, 12), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=100)
def test_any_shuffle_and_any_sharding_give_the_identical_table(data, depth, random):
    table = candidates(data)
    whole = rank(table, depth)
    order = list(range(len(data)))
    random.shuffle(order)
    assert rank(table.take(pa.array(order, pa.int64())), depth).equals(whole)
    where = np.array([random.randrange(3) for _ in data], int)
    parts = [rank(table.filter(pa.array(where == i)), depth) for i in range(3)]
    assert merge(parts, depth).equals(whole)


def test_minus_zero_ties_with_zero_and_is_written_as_zero():
    got = rank(candidates([(0, "a", 0.0), (0, "b", -0.0)]), 9)
    assert got["doc_id"].to_pylist() == ["b", "a"]
    assert not np.signbit(got["score"].to_numpy()).any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_is_refused_with_its_place(bad):
    with pytest.raises(NightrankError, match=r"E_CORRUPT.*query 7, doc_id 'x'"):
        rank(candidates([(1, "a", 0.0), (7, "x", bad)]), 9)


def test_a_doc_id_twice_in_one_query_is_refused_but_not_in_two_queries():
    rank(candidates([(0, "a", 1.0), (1, "a", 1.0)]), 9)
    with pytest.raises(NightrankError, match=r"twice.*query 1, doc_id 'a'"):
        merge([candidates([(1, "a", 1.0)]), candidates([(1, "a", 2.0)])], 9)


def test_the_rank_agrees_with_the_one_that_trec_eval_derives():
    import pytrec_eval

    generator = np.random.default_rng(5)
    ids = [f"d{i}" for i in generator.permutation(60)]
    score = generator.integers(0, 6, 60) / 4
    got = rank(candidates([(0, d, float(s)) for d, s in zip(ids, score, strict=True)]), 60)
    run = {"q": {d: float(s) for d, s in zip(ids, score, strict=True)}}
    for position, doc_id in enumerate(got["doc_id"].to_pylist(), 1):
        # With a single relevant document the reciprocal rank is 1 / its rank.
        found = pytrec_eval.RelevanceEvaluator({"q": {doc_id: 1}}, {"recip_rank"}).evaluate(run)
        assert found["q"]["recip_rank"] == pytest.approx(1 / position)


def test_fuse_is_the_weighted_sum_of_hand_computed_z_scores():
    first = np.array([1, 3, 5, 5], np.float32)
    second = np.array([0, 0, 2, 7], np.float32)
    query = np.array([0, 0, 1, 1], np.int32)
    got = fuse(first, second, query, 0.25)
    # Query 0: z(first) = -1, 1 and z(second) = 0, 0; query 1 the other way round.
    assert got.tolist() == [-0.25, 0.25, -0.75, 0.75]
    assert got.dtype == np.float32
    assert fuse(first, second, query, 0.0) is second


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1.0))
@settings(deadline=None, max_examples=50)
def test_fuse_gives_the_same_bytes_for_any_order_of_rows_and_any_sharding(seed, weight):
    generator = np.random.default_rng(seed)
    query = np.sort(generator.integers(0, 5, 40)).astype(np.int32)
    first, second = generator.normal(size=(2, 40)).astype(np.float32) * 1e3
    whole = fuse(first, second, query, weight)
    order = np.lexsort((generator.random(40), query))
    assert fuse(first[order], second[order], query, weight).tobytes() == whole[order].tobytes()
    for q in range(5):
        mine = query == q
        assert np.array_equal(fuse(first[mine], second[mine], query[mine], weight), whole[mine])


def test_fuse_of_equal_scores_is_zero_and_not_rounding_noise():
    equal = np.full(7, 0.1, np.float32)
    assert not fuse(equal, equal, np.zeros(7, np.int32), 0.5).any()


def test_the_rescored_head_stands_above_the_tail_at_the_stated_distances():
    previous = np.array([9, 8, 7, 5, 3, 2], np.float32)
    rescored = np.array([0, 4, 99, 99, 1, 6], np.float32)
    query = np.array([0, 0, 0, 0, 1, 1], np.int32)
    got = head_then_tail(previous, rescored, query, positions(query), 2)
    assert got.tolist() == [0, 4, -1, -3, 1, 6]


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from([1.0, 1e6, 1e-6, 1e12]))
@settings(deadline=None, max_examples=100)
def test_the_tail_keeps_its_order_and_its_ties_through_rounding(seed, depth, scale):
    generator = np.random.default_rng(seed)
    query = np.repeat(np.arange(4, dtype=np.int32), [1, 12, 5, 9])
    # Neighbouring float32 values, many of them tied: what a float32 shift would round together.
    raw = np.float32(0.5) + generator.integers(0, 9, query.size).astype(np.float32) * 2**-24
    doc_ids = [f"d{i}" for i in range(query.size)]
    before = rank(candidates(list(zip(query, doc_ids, raw.tolist(), strict=True))), 99)
    previous, ranks = before["score"].to_numpy(), before["rank"].to_numpy()
    rescored = (generator.normal(size=query.size) * scale).astype(np.float32)
    score = head_then_tail(previous, rescored, query, ranks, depth)
    assert np.array_equal(score[ranks <= depth], rescored[ranks <= depth])
    where = before.schema.get_field_index("score")
    after = rank(before.set_column(where, "score", pa.array(score)), 99)
    old, new = (t.select(["query", "doc_id", "rank"]).to_pylist() for t in (before, after))
    assert [r for r in old if r["rank"] > depth] == [r for r in new if r["rank"] > depth]
