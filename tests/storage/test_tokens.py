import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightrank.storage.tokens import Tokens

ROWS = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=8), max_size=12)


@given(ROWS)
def test_lists_and_arrow_round_trip(rows):
    tokens = Tokens.from_lists(rows)
    assert tokens.to_lists() == rows
    assert tokens.lengths.tolist() == [len(row) for row in rows]
    again = Tokens.from_arrow(tokens.to_arrow())
    assert again.to_lists() == rows
    assert again.ids.dtype == np.int32 and again.offsets.dtype == np.int64


@given(ROWS.filter(len), st.integers(0, 9), st.randoms())
def test_take_and_truncate(rows, cut, random):
    tokens = Tokens.from_lists(rows)
    order = [random.randrange(len(rows)) for _ in range(5)]
    assert tokens.take(order).to_lists() == [rows[i] for i in order]
    assert tokens.truncate(cut).to_lists() == [row[:cut] for row in rows]


def test_arrow_ids_are_not_copied():
    column = Tokens.from_lists([[1, 2], [3]]).to_arrow()
    tokens = Tokens.from_arrow(column)
    assert tokens.ids.ctypes.data == column.values.buffers()[1].address


def test_slices_and_chunks_of_arrow_columns():
    column = Tokens.from_lists([[1], [2, 3], [], [4]]).to_arrow()
    assert Tokens.from_arrow(column.slice(1, 2)).to_lists() == [[2, 3], []]
    chunked = pa.chunked_array([column.slice(0, 1), column.slice(3, 1)])
    assert Tokens.from_arrow(chunked).to_lists() == [[1], [4]]
    assert len(Tokens.from_arrow(pa.chunked_array([], type=pa.list_(pa.int32())))) == 0


def test_refuses_what_is_no_token_column():
    with pytest.raises(ValueError, match="nulls"):
        Tokens.from_arrow(pa.array([[1], None], pa.list_(pa.int32())))
    with pytest.raises(ValueError, match="int32"):
        Tokens.from_arrow(pa.array([[1]], pa.list_(pa.int64())))
    with pytest.raises(ValueError, match="offsets"):
        Tokens(np.zeros(2, np.int32), np.array([0, 3], np.int64))
    with pytest.raises(ValueError, match="ascending"):
        Tokens(np.zeros(4, np.int32), np.array([0, 3, 2], np.int64))
    with pytest.raises(IndexError):
        Tokens.from_lists([[1]])[1]
