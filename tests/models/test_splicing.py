import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightrank.models.text.splicing import PROBES, longest_first, provable_template
from nightrank.models.text.tokenizers import (
    MINILM_PADDING,
    MINILM_PAIR,
    MINILM_SINGLE,
    minilm_splicer,
    minilm_tokenizer,
)
from nightrank.storage.tokens import Tokens

pytestmark = pytest.mark.models
LENGTH = st.integers(0, 300)


@pytest.fixture(scope="module")
def tokenizer():
    from nightrank.models.folders.builtin import minilm_folder
    from nightrank.models.text.tokenizers import pretrained_tokenizer

    return pretrained_tokenizer(minilm_folder())


@given(LENGTH, LENGTH, st.integers(2, 200))
def test_longest_first_keeps_as_much_as_fits(first, second, room):
    one, two = longest_first(np.array([first]), np.array([second]), room)
    a, b = int(one[0]), int(two[0])
    assert a <= first and b <= second
    assert a + b == min(first + second, room)
    if first <= room // 2:
        assert a == first


def test_minilm_pairs_and_singles_are_provable(tokenizer):
    pair, single = provable_template(tokenizer, True), provable_template(tokenizer, False)
    assert (pair, single) == (MINILM_PAIR, MINILM_SINGLE)
    assert tokenizer.pad_token_id == MINILM_PADDING


@pytest.fixture(scope="module")
def spliced():
    return minilm_tokenizer()


@given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=120)), min_size=1, max_size=6))
def test_spliced_pairs_equal_the_tokenizers_own(tokenizer, spliced, pairs):
    first, second = [q for q, _ in pairs], [d for _, d in pairs]
    splicer = minilm_splicer(32, pair=True)
    queries, documents = spliced(first), spliced(second)
    rows = np.arange(len(pairs))
    spliced_batch = splicer.batch(
        splicer.source(queries, documents), queries, rows, documents, rows
    )
    expected = tokenizer(first, second, truncation=True, max_length=32)
    for row, length in enumerate(spliced_batch.lengths.tolist()):
        assert spliced_batch.input_ids[row, :length].tolist() == expected["input_ids"][row]
        assert spliced_batch.token_types[row, :length].tolist() == expected["token_type_ids"][row]
        assert not spliced_batch.input_ids[row, length:].any()
    assert (
        spliced_batch.lengths.tolist()
        == splicer.lengths(queries.lengths, documents.lengths).tolist()
    )


def test_a_tokenizer_that_cuts_on_the_left_is_not_provable(tmp_path):
    from tests.support.tiny_models import tiny_tokenizer

    assert provable_template(tiny_tokenizer(tmp_path), True) is not None
    assert provable_template(tiny_tokenizer(tmp_path, truncation_side="left"), True) is None


def test_utf8_tokens_hold_the_text():
    from nightrank.models.text.tokenizers import Utf8Tokenizer, decode_utf8

    tokens = Utf8Tokenizer(4096)([*PROBES, None])
    assert decode_utf8(tokens) == [*PROBES, ""]
    assert decode_utf8(Utf8Tokenizer(4)(["aé🙂"])) == ["aé"]
    assert isinstance(tokens, Tokens)
