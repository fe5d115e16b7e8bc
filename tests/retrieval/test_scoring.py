"""Exact scores: what a library sums is told from what the tree sums, and lists stay exact."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightrank.retrieval import faiss_index, faiss_library, faiss_products, ragged, scoring
from nightrank.retrieval.first_stage import search_group
from tests.support.shards import as_rows, brute_force, open_shard, split


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 3, 17, 384]),
    st.sampled_from([1e-30, 1e-3, 1.0, 1e18]),
    st.sampled_from([1, 1 << 12, 1 << 20]),
    st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_a_librarys_sums_give_the_bits_of_the_tree(seed, dimension, scale, size, by_query):
    generator = np.random.default_rng(seed)
    vectors = (generator.standard_normal((60, dimension)) * scale).astype(np.float32)
    queries = generator.standard_normal((7, dimension)).astype(np.float32)
    # Sums that cancel to nothing, of either sign, and products that are exact halves of a step.
    vectors[:3] = 0
    vectors[3:6] = -vectors[6:9]
    queries[0] = np.float32(1 + 2**-12)
    vectors[9:30] = np.float32(1 + 2**-12)
    query = generator.integers(0, 7, 300).astype(np.int32)
    query = np.sort(query) if by_query else query
    row = generator.integers(0, 60, 300)
    norm = float(scoring.norms(vectors).max())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "PRODUCT_BYTES", size)
        by_library = scoring.exact_scores(queries, vectors, query, row, norm, threads=2)
    by_tree = scoring.exact_scores(queries, vectors, query, row)
    assert by_library.tobytes() == by_tree.tobytes()


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from([1, 16, 1 << 24]))
@settings(deadline=None, max_examples=60)
def test_the_nth_of_every_row_and_of_rows_in_parts(seed, n, block):
    generator = np.random.default_rng(seed)
    query = np.sort(generator.integers(0, 6, 40)).astype(np.int32)
    values = generator.integers(0, 5, 40).astype(np.float32)
    expected = []
    for number in range(6):
        mine = np.sort(values[query == number])[::-1]
        expected.append(mine[n - 1] if len(mine) >= n else -np.inf)
    where = generator.integers(0, 3, 40)
    parts = [(query[where == i], values[where == i]) for i in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ragged, "MATRIX_VALUES", block)
        assert ragged.nth_of_parts(parts, 6, n).tolist() == expected
        assert ragged.nth_of_parts([(query, values)], 6, n).tolist() == expected
    assert ragged.nth_of_parts([], 2, n).tolist() == [-np.inf] * 2


class HalfPrecision:
    """FAISS with a GPU that rounds to half precision and sums in float32, as the real one does."""

    def __init__(self, faiss):
        self._faiss, self.calls = faiss, []

    def __getattr__(self, name):
        return getattr(self._faiss, name)

    def get_num_gpus(self):
        return 1

    def StandardGpuResources(self):  # noqa: N802
        return None

    def knn_gpu(self, memory, queries, vectors, k, **settings):
        assert queries.dtype == vectors.dtype == np.float16
        self.calls.append((len(queries), k))
        scores = queries.astype(np.float32) @ vectors.astype(np.float32).T
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, rows, 1), rows


@pytest.fixture
def gpu(monkeypatch):
    stand_in = HalfPrecision(faiss_library.library())
    for module in (faiss_index, faiss_library, faiss_products):
        monkeypatch.setattr(module, "library", lambda: stand_in)
    faiss_products._gpu_memory.cache_clear()
    yield stand_in
    faiss_products._gpu_memory.cache_clear()


@pytest.mark.parametrize("scale", [1e-20, 1e-4, 1.0, 300.0, 1e20])
def test_half_precision_stays_within_its_bound(gpu, scale):
    generator = np.random.default_rng(1)
    vectors = (generator.standard_normal((500, 48)) * scale).astype(np.float32)
    vectors[:100] *= np.float32(1e-6)  # far below the largest norm: subnormal in half precision
    queries = generator.standard_normal((20, 48)).astype(np.float32)
    template, _ = faiss_index.train("Flat", vectors, 1)
    index = faiss_index.add(template, vectors)
    assert faiss_products.in_half(index)
    query, row, score = faiss_index.search(index, queries, 500)
    assert gpu.calls == [(20, 500)]
    exact = np.einsum("ij,ij->i", queries[query].astype(float), vectors[row].astype(float))
    norms = scoring.norms(queries)[query] * scoring.norms(vectors).max()
    off = np.abs(score - exact) / norms
    assert off.max() <= faiss_products.relative_error(index)
    # The bound is no more than some times what is seen: a wide one would fetch without end.
    assert off.max() > faiss_products.relative_error(index) / 30


@given(seed=st.integers(0, 2**32 - 1), shards=st.integers(1, 4), depth=st.sampled_from([1, 3, 25]))
@settings(deadline=None, max_examples=25)
def test_lists_are_exact_where_half_precision_finds_them(seed, shards, depth):
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((150, 5)).astype(np.float32)
    # A ten-thousandth apart: half precision takes them for the same.
    vectors[50:150] = np.repeat(vectors[:10], 10, axis=0)
    vectors[50:150, 0] += np.arange(100, dtype=np.float32) * np.float32(1e-5)
    queries = generator.standard_normal((4, 5)).astype(np.float32)
    doc_ids = [f"d{i}" for i in generator.permutation(150)]
    parts = split(vectors, doc_ids, generator.integers(0, shards, 150))
    stand_in = HalfPrecision(faiss_library.library())
    with pytest.MonkeyPatch.context() as patch:
        for module in (faiss_index, faiss_library, faiss_products):
            patch.setattr(module, "library", lambda: stand_in)
        got = search_group(queries, parts, depth)
    assert stand_in.calls
    assert as_rows(got) == brute_force(queries, vectors, doc_ids, depth)


def test_only_scores_within_rounding_are_cut_by_a_bound():
    vectors = np.random.default_rng(0).standard_normal((700, 16)).astype(np.float32)
    products = {
        "Flat": True,
        "IVF16,Flat": True,
        "HNSW8": True,
        "PQ8x4fs,RFlat": True,
        "PQ8x4fs": False,
        "SQ8": False,
        "IVF8,PQ8x4fs": False,
    }
    for factory, expected in products.items():
        index = open_shard(vectors, np.arange(700), [f"{i}" for i in range(700)], factory).index
        assert faiss_products.scores_are_products(index) is expected, factory
        held = faiss_library.stored_vectors(index)
        assert (held is not None) is (factory in ("Flat", "PQ8x4fs,RFlat"))
        assert held is None or np.array_equal(held, vectors)
