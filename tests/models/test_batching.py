import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nightrank.models.text.batching import order_by_length, pack
from nightrank.models.text.passage import passage_text

LENGTHS = st.lists(st.integers(0, 600), max_size=200)


@given(LENGTHS, st.integers(1, 5000), st.integers(1, 64))
def test_every_item_once_within_budget_near_lengths_together(lengths, budget, most):
    sizes = np.array(lengths, dtype=np.int64)
    batches = pack(sizes, budget, most)
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= most
        assert len(batch) == 1 or len(batch) * int(sizes[batch].max()) <= budget
    flat = [lengths[i] for batch in batches for i in batch.tolist()]
    assert flat == sorted(lengths, reverse=True)


@given(LENGTHS)
def test_packing_is_a_pure_function_of_lengths(lengths):
    sizes = np.array(lengths, dtype=np.int64)
    one, other = pack(sizes, 1000), pack(sizes.copy(), 1000)
    assert [b.tolist() for b in one] == [b.tolist() for b in other]


def test_equal_lengths_keep_their_order():
    assert order_by_length(np.array([3, 5, 3, 5])).tolist() == [1, 3, 0, 2]


def test_passage_text():
    assert passage_text("A title", "its text") == "A title its text"
    assert passage_text("", " text as it is ") == " text as it is "
    assert passage_text(None, None) == ""
    assert passage_text("Only a title", None) == "Only a title"
