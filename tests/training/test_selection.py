import numpy as np
import pytest

from nightrank.training.selection import JudgedQuery, choose_weight, mean_ndcg, ndcg, standardise


def pool(first_stage, rerank, relevant, ideal=(1.0,)):
    gains = np.zeros(len(first_stage))
    gains[relevant] = 1.0
    return JudgedQuery(gains, ideal, np.array(first_stage, float), np.array(rerank, float))


def test_standardise():
    np.testing.assert_allclose(standardise(np.array([1.0, 3.0])), [-1.0, 1.0])
    assert standardise(np.array([2.0, 2.0])).tolist() == [0.0, 0.0]


def test_ndcg_by_hand():
    judged = pool([3, 2, 1], [1, 2, 3], relevant=[2])
    assert ndcg(judged, 0.0) == 1.0
    assert ndcg(judged, 1.0) == pytest.approx(1 / np.log2(4))
    missed = pool([3, 2], [1, 2], relevant=[1], ideal=(1.0, 1.0))
    assert ndcg(missed, 0.0) == pytest.approx(1 / (1 + 1 / np.log2(3)))


def test_the_weight_follows_the_better_stage():
    good, bad = [1, 2, 3], [3, 2, 1]
    assert choose_weight({"a": [pool(bad, good, [2])]})[0] == 0.0
    weight, mean = choose_weight({"a": [pool(good, bad, [2])]})
    assert weight > 0.5 and mean == 1.0
    assert mean_ndcg({"a": [pool(bad, good, [2])]}, 1.0) == {"a": pytest.approx(0.5)}
