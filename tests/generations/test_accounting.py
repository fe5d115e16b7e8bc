"""What a run may lose to a model, and what it may not."""

from __future__ import annotations

import pytest

from nightrank.errors import NightrankError
from nightrank.generations.accounting import check_scores, check_vectors
from nightrank.models.registry import resolve_bi_encoder, resolve_cross_encoder
from nightrank.storage.dataset import Manifest, Record


def made(**stats: int) -> Manifest:
    half = {name: count // 2 for name, count in stats.items()}
    rest = {name: count - half[name] for name, count in stats.items()}
    shards = tuple(Record(f"s{i}", 0, {}, each, 1.0) for i, each in enumerate((half, rest)))
    return Manifest("somewhere", "rerank", 1, {}, shards)


RERANKER = resolve_cross_encoder("toy:overlap")


def test_a_reranker_may_fail_on_one_pair_in_a_thousand() -> None:
    check_scores(made(pairs=5000, nonfinite=5), RERANKER)
    with pytest.raises(NightrankError, match="6 of 5000 pairs have no finite score") as caught:
        check_scores(made(pairs=5000, nonfinite=6), RERANKER)
    assert caught.value.exit_code == 4


def test_what_was_set_aside_is_no_fault_of_the_model() -> None:
    check_scores(made(pairs=100, nonfinite=3, set_aside=3), RERANKER)
    encoder = resolve_bi_encoder("toy:bag-of-words")
    check_vectors("documents", made(rejected=2, set_aside=2), 100, encoder)
    with pytest.raises(NightrankError, match="1 of 100 documents"):
        check_vectors("documents", made(rejected=3, set_aside=2), 100, encoder)
