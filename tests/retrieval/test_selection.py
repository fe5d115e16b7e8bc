"""Choosing an index: the rule, on measurements that are given and on real ones."""

import numpy as np
import pytest

from nightrank.errors import NightrankError
from nightrank.retrieval import faiss_index, selection
from nightrank.retrieval.selection import Trial, choose


def clustered(num, dimension, seed=0, spread=0.3):
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(200, dimension))
    noise = spread * generator.normal(size=(num, dimension))
    vectors = centres[generator.integers(0, 200, num)] + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def test_up_to_flat_rows_nothing_is_measured():
    choice = choose(np.zeros((0, 4), np.float32), 50_000, 10**6, 100, 0.98, 50_000, 1, 0)
    assert (choice.factory, choice.search_parameters, choice.trials) == ("Flat", "", ())
    assert "index.flat_rows = 50000" in choice.reason


def test_with_a_gpu_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(selection.faiss_library, "gpus", lambda: 1)
    choice = choose(clustered(2000, 8), 10**6, 10**6, 100, 0.98, 10, 1, 0)
    assert (choice.factory, choice.trials) == ("Flat", ()) and "on a GPU" in choice.reason
    # The GPU's selection gives 2,048 rows at most.
    assert "on a GPU" not in choose(clustered(999, 8), 10**6, 10**6, 2000, 0.98, 10, 1, 0).reason


def test_a_tiny_sample_gives_flat():
    assert choose(clustered(999, 8), 10**6, 10**6, 100, 0.98, 10, 1, 0).factory == "Flat"


@pytest.mark.parametrize("dimension", [32, 33])
def test_the_choice_reaches_the_target_and_its_strings_build_and_search(dimension):
    vectors = clustered(12_000, dimension)
    choice = choose(vectors, 12_000, 10**6, 20, 0.95, 1000, 1, 7)
    assert choice.recall >= 0.95
    assert choice.trials[0].factory == "Flat"
    assert {t.factory.split(",")[0][:2] for t in choice.trials} >= {"Fl", "IV"}
    raw = 4 * dimension
    assert choice.trials[0].bytes_per_vector == pytest.approx(raw, rel=0.01)
    for trial in choice.trials:
        # Codes and lists come on top of raw vectors; IVF-Flat holds them in another order, twice.
        twice = "RFlat" not in trial.factory and trial.factory != "Flat"
        assert raw <= trial.bytes_per_vector < (1.6 + twice) * raw
        template, built = faiss_index.train(trial.factory, vectors, 1)
        assert built == trial.factory
        faiss_index.search(template, vectors[:2], 5, trial.search_parameters)


def test_settings_are_the_cheapest_that_reach_the_target(monkeypatch):
    """The next cheaper one was tried, and falls short."""
    tried, hits, recall = [], selection._hits, selection._recall

    def search(index, queries, k, fetch, parameters):
        tried.append([index, parameters, None])
        return hits(index, queries, k, fetch, parameters)

    def measure(mine, truth):
        tried[-1][2] = recall(mine, truth)
        return tried[-1][2]

    monkeypatch.setattr(selection, "_hits", search)
    monkeypatch.setattr(selection, "_recall", measure)
    choice = choose(clustered(12_000, 32, spread=1.0), 12_000, 10**6, 20, 0.9, 1000, 1, 7)
    within_lists = [trial for trial in choice.trials if trial.factory.startswith("IVF")]
    assert len(within_lists) == 4  # Two codes, refined by two factors each.
    built = list(dict.fromkeys(id(index) for index, _, recall in tried if recall is not None))
    grids = selection._index_types(32, 12_000, 11_500)
    checked = 0
    for trial in within_lists:
        number = next(i for i, (factory, _) in enumerate(grids) if factory == trial.factory)
        grid = next(grid for grid in grids[number][1] if trial.search_parameters in grid)
        of = {p: r for index, p, r in tried if id(index) == built[number] and r is not None}
        assert of[trial.search_parameters] == trial.recall
        at = grid.index(trial.search_parameters)
        if trial.recall >= 0.95 and at:
            assert of[grid[at - 1]] < 0.95
            checked += 1
        assert trial.recall >= 0.95 or at == len(grid) - 1
    assert checked


def test_what_a_form_takes_of_more_vectors_grows_by_what_it_scans():
    # Half its time is for lists and refinement: of four times as many vectors it takes 2.5 times.
    assert selection.expected_ratio(8.0, 2.0, 1.5, 4.0) == pytest.approx(5.0 / 32.0)
    assert selection.expected_ratio(8.0, 2.0, 1.5, 1.0) == pytest.approx(0.25)
    # Noise: no form takes less for more, nor more than in proportion.
    assert selection.expected_ratio(8.0, 2.0, 2.1, 4.0) == pytest.approx(2.0 / 32.0)
    assert selection.expected_ratio(8.0, 2.0, 0.5, 4.0) == pytest.approx(0.25)


def test_an_unreachable_target_gives_flat():
    noise = np.random.default_rng(0).normal(size=(3000, 16)).astype(np.float32)
    choice = choose(noise, 10**6, 10**6, 100, 1.0, 1000, 1, 0)
    assert choice.factory == "Flat" or choice.recall == 1.0


def test_the_fastest_that_reaches_the_target_wins_if_it_clearly_beats_flat():
    flat, good = Trial("Flat", "", 1.0, 10.0), Trial("PQ8x4fs,RFlat", "k_factor_rf=4", 0.98, 4.0)
    fast = Trial("IVF64,Flat", "nprobe=8", 0.90, 1.0)
    slow = Trial("IVF64,Flat", "nprobe=64", 0.99, 9.5)
    chosen = selection._best([flat, good, fast, slow], 0.98, 100)
    assert (chosen.factory, chosen.search_parameters) == ("PQ8x4fs,RFlat", "k_factor_rf=4")
    assert "2.5 times" in chosen.reason
    assert selection._best([flat, fast, slow], 0.98, 100).factory == "Flat"


def test_recall_counts_the_share_of_the_exact_list():
    pairs = [np.array(p, np.int64) for p in ([1, 2, 3, 4], [4, 3, 9, 8])]
    assert selection._recall(pairs[1], pairs[0]) == 0.5


def test_a_sample_that_is_not_finite_is_refused():
    vectors = clustered(2000, 8)
    vectors[5] = np.nan
    with pytest.raises(NightrankError, match="E_CORRUPT"):
        choose(vectors, 10**6, 10**6, 10, 0.9, 10, 1, 0)
