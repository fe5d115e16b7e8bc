"""The FAISS door: its silent traps are errors here."""

import io

import numpy as np
import pytest

from nightrank.errors import NightrankError
from nightrank.retrieval import faiss_files, faiss_index, faiss_library

FORMS = ["Flat", "IVF16,Flat", "PQ8x4fs,RFlat", "IVF8,PQ8x4fs,RFlat", "SQfp16", "HNSW8"]


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(1).normal(size=(700, 16)).astype(np.float32)


def build(factory, vectors):
    template, built = faiss_index.train(factory, vectors, threads=1)
    assert built == factory
    return faiss_index.add(template, vectors)


def as_bytes(index):
    file = io.BytesIO()
    faiss_files.write(index, file)
    return file.getvalue()


@pytest.mark.parametrize("factory", FORMS)
def test_an_index_comes_back_from_its_file_with_the_same_answers(factory, vectors, tmp_path):
    template, _ = faiss_index.train(factory, vectors, threads=1)
    index = faiss_index.add(template, vectors)
    assert (template.ntotal, index.ntotal) == (0, 700)
    path = tmp_path / "shard.faiss"
    path.write_bytes(as_bytes(index))
    with path.open("rb") as file:
        again = [
            faiss_index.add(faiss_files.read(as_bytes(template)), vectors),
            faiss_files.read(path),
            faiss_files.read(path.read_bytes()),
            faiss_files.read(file),
        ]
    expected = faiss_index.search(index, vectors[:9], 5)
    for other in again:
        for one, two in zip(expected, faiss_index.search(other, vectors[:9], 5), strict=True):
            assert np.array_equal(one, two)


def test_flat_search_finds_the_highest_inner_products(vectors):
    query, row, score = faiss_index.search(build("Flat", vectors), vectors[:7], 3)
    truth = vectors[:7] @ vectors.T
    assert query.tolist() == [q for q in range(7) for _ in range(3)]
    assert np.array_equal(row.reshape(7, 3), np.argsort(-truth, axis=1)[:, :3])
    assert np.allclose(score, truth[query, row], rtol=1e-5)


def test_k_beyond_the_index_gives_every_row_once_and_never_minus_one(vectors):
    query, row, _ = faiss_index.search(build("Flat", vectors[:4]), vectors[:2], 100)
    assert query.tolist() == [0] * 4 + [1] * 4
    assert sorted(row[:4]) == sorted(row[4:]) == [0, 1, 2, 3]


def test_fewer_hits_than_k_from_few_probes_leave_no_minus_one(vectors):
    index = build("IVF16,Flat", vectors)
    query, row, _ = faiss_index.search(index, vectors[:50], 700, "nprobe=1")
    assert 50 <= len(row) < 50 * 700
    assert row.min() >= 0
    assert np.array_equal(query, np.sort(query))
    assert (np.bincount(query, minlength=50) > 0).all()


def test_empty_index_and_no_queries_give_empty_arrays(vectors):
    empty = build("Flat", vectors[:0])
    for queries, index in [(vectors[:3], empty), (vectors[:0], build("Flat", vectors))]:
        query, row, score = faiss_index.search(index, queries, 5)
        assert (query.dtype, row.dtype, score.dtype) == (np.int32, np.int64, np.float32)
        assert len(query) == len(row) == len(score) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused_everywhere(bad, vectors):
    index = build("Flat", vectors)
    broken = vectors[:20].copy()
    broken[13, 4] = bad
    for call in (
        lambda: faiss_index.train("Flat", broken, 1),
        lambda: faiss_index.add(index, broken),
        lambda: faiss_index.search(index, broken, 3),
    ):
        with pytest.raises(NightrankError, match=r"E_CORRUPT.*expected finite.*1 of 20.*row 13"):
            call()


@pytest.mark.parametrize(
    "factory", ["Flatt", "IVF", "IVF999,Flatt", "PQ7", "IDMap,Flat", "IVF16,PQ5x4fs", ""]
)
def test_a_factory_that_faiss_cannot_build_is_an_error_of_the_config(factory, vectors):
    with pytest.raises(NightrankError, match=r"E_CONFIG.*index\.factory"):
        faiss_index.train(factory, vectors, 1)
    with pytest.raises(NightrankError, match="E_CONFIG"):
        faiss_index.train(factory, vectors[:0], 1)


@pytest.mark.parametrize("parameters", ["nprobe=4", "nprobe=x", "efSearch", "foo=1"])
def test_parameters_that_the_index_does_not_take_are_an_error_of_the_config(parameters, vectors):
    index = build("Flat", vectors)
    with pytest.raises(NightrankError, match=r"E_CONFIG.*index\.search_parameters"):
        faiss_index.search(index, vectors[:2], 3, parameters)


def test_queries_of_another_dimension_are_refused(vectors):
    with pytest.raises(NightrankError, match=r"E_CORRUPT.*16 dimensions, found 15"):
        faiss_index.search(build("Flat", vectors), vectors[:2, :15], 3)


def test_parameters_change_the_search_and_can_be_cut_to_what_fits(vectors):
    index = build("IVF16,Flat", vectors)
    few = faiss_index.search(index, vectors, 10, "nprobe=1")[1]
    all_lists = faiss_index.search(index, vectors, 10, "nprobe=16")[1]
    exact = faiss_index.search(build("Flat", vectors), vectors, 10)[1]
    assert not np.array_equal(few, exact)
    assert np.array_equal(all_lists, exact)
    assert faiss_index.fitting_parameters(index, "k_factor_rf=4, nprobe=3") == "nprobe=3"
    assert faiss_index.fitting_parameters(build("Flat", vectors), "nprobe=3") == ""


@pytest.mark.parametrize(
    ("factory", "num_vectors", "built"),
    [
        ("IVF16,Flat", 624, "IVF16,Flat"),
        ("IVF16,Flat", 623, "IVF15,Flat"),
        ("IVF1024,PQ8x4fs,RFlat", 200, "IVF5,PQ8x4fs,RFlat"),
        ("IVF1024,Flat", 77, "Flat"),
        ("PQ8", 100, "Flat"),
        ("PQ8x4fs,RFlat", 15, "Flat"),
        ("IVF64,Flat", 0, "Flat"),
    ],
)
def test_too_few_vectors_give_fewer_lists_or_flat(factory, num_vectors, built, vectors):
    template, fitting = faiss_index.train(factory, vectors[:num_vectors], 1)
    assert fitting == built
    assert template.is_trained
    assert faiss_index.add(template, vectors).ntotal == 700


def test_a_truncated_or_prolonged_file_is_refused(vectors):
    whole = as_bytes(build("IVF16,Flat", vectors))
    for size in [0, 3, 4, 40, len(whole) // 2, len(whole) - 1]:
        with pytest.raises(NightrankError, match="E_CORRUPT"):
            faiss_files.read(whole[:size])
    with pytest.raises(NightrankError, match="found more bytes"):
        faiss_files.read(whole + b"\0")
    with pytest.raises(NightrankError, match="E_CORRUPT"):
        faiss_files.read(b"PAR1" + whole[4:])


def test_an_index_of_distances_is_refused(vectors):
    import faiss

    with pytest.raises(NightrankError, match="inner products"):
        faiss_files.read(as_bytes(faiss.IndexFlatL2(16)))


def test_an_index_that_names_another_file_is_refused_before_that_file_is_touched(vectors, tmp_path):
    import faiss

    index = build("IVF16,Flat", vectors)
    lists = faiss.OnDiskInvertedLists(16, index.code_size, str(tmp_path / "lists"))
    index.replace_invlists(lists)
    stored = as_bytes(index)
    (tmp_path / "lists").unlink(missing_ok=True)
    with pytest.raises(NightrankError, match=r"E_CORRUPT.*another file"):
        faiss_files.read(stored)
    assert not (tmp_path / "lists").exists()


def test_an_error_of_the_file_written_to_comes_through(vectors):
    class Full(io.BytesIO):
        def write(self, block):
            if self.tell() + len(block) > 1000:
                raise OSError(28, "No space left on device")
            return super().write(block)

    class Short(io.BytesIO):
        def write(self, block):
            return super().write(block[: len(block) - 1])

    index = build("Flat", vectors)
    with pytest.raises(OSError, match="No space left"):
        faiss_files.write(index, Full())
    with pytest.raises(OSError, match=r"wrote \d+ of"):
        faiss_files.write(index, Short())


def test_flat_vectors_are_the_ones_added_without_a_copy(vectors):
    index = build("Flat", vectors)
    view = faiss_library.flat_vectors(index)
    assert np.array_equal(view, vectors)
    assert np.shares_memory(view, faiss_library.flat_vectors(index))
    stored = as_bytes(index)
    assert np.array_equal(faiss_library.flat_vectors(keep := faiss_files.read(stored)), vectors)
    assert keep.ntotal == 700
    assert faiss_library.flat_vectors(build("IVF16,Flat", vectors)) is None
    assert faiss_library.flat_vectors(build("Flat", vectors[:0])).shape == (0, 16)


def test_two_faiss_builds_or_none_are_refused_with_what_to_install(monkeypatch):
    for found, said in [(set(), "none"), ({"faiss-cpu", "faiss-gpu"}, "faiss-cpu and faiss-gpu")]:
        faiss_library.library.cache_clear()
        monkeypatch.setattr(faiss_library, "_is_installed", found.__contains__)
        with pytest.raises(NightrankError, match=rf"E_MODEL.*found {said}.*nightrank\[cpu\]"):
            faiss_library.use_threads(1)
    monkeypatch.undo()
    faiss_library.library.cache_clear()
