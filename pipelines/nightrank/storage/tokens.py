"""Ragged token ids: the form of texts between storage and models.

Compressed sparse rows: one flat array of ids and one array of offsets. Arrow lays out a list column
in the same way, so that reading a shard copies nothing. Special tokens are not stored; each model
adds its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

LARGEST_ARROW_LIST = 2**31 - 1


@dataclass(frozen=True)
class Tokens:
    """n ragged rows of token ids.

    Attributes:
        ids: int32 [total], all rows end to end.
        offsets: int64 [n + 1]; row i is ``ids[offsets[i]:offsets[i + 1]]``.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuses arrays that are not compressed sparse rows."""
        if self.ids.dtype != np.int32 or self.offsets.dtype != np.int64:
            dtypes = f"{self.ids.dtype}, {self.offsets.dtype}"
            raise ValueError(f"expected ids int32 and offsets int64, found {dtypes}")
        if len(self.offsets) == 0 or self.offsets[-1] > len(self.ids) or self.offsets[0] < 0:
            raise ValueError("expected n + 1 offsets within the ids")
        if np.any(self.offsets[1:] < self.offsets[:-1]):
            raise ValueError("expected ascending offsets")

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        """The ids of one row, a view."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [n], ids of each row."""
        return np.diff(self.offsets)

    def take(self, indices: NDArray[Any] | Sequence[int]) -> Tokens:
        """The rows at `indices`, in that order; a row may occur several times."""
        rows = np.asarray(indices, dtype=np.int64)
        return self._gather(self.offsets[:-1][rows], self.lengths[rows])

    def truncate(self, maximum: int) -> Tokens:
        """Every row cut to its first `maximum` ids; self where no row is longer."""
        lengths = self.lengths
        if len(lengths) == 0 or int(lengths.max()) <= maximum:
            return self
        return self._gather(self.offsets[:-1], np.minimum(lengths, maximum))

    def _gather(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Tokens:
        """Copies runs of ids into new rows."""
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Tokens(self.ids[np.repeat(starts, lengths) + within], offsets)

    def to_lists(self) -> list[list[int]]:
        """Rows as Python lists."""
        return [self[row].tolist() for row in range(len(self))]

    @staticmethod
    def concatenate(parts: Sequence[Tokens]) -> Tokens:
        """The rows of all parts, one after another."""
        ids = [part.ids[part.offsets[0] : part.offsets[-1]] for part in parts]
        lengths = [part.lengths for part in parts]
        offsets = np.concatenate([[0], np.cumsum(np.concatenate([np.empty(0), *lengths]))])
        return Tokens(np.concatenate([np.empty(0, np.int32), *ids]), offsets.astype(np.int64))

    @staticmethod
    def from_lists(rows: Iterable[Sequence[int]]) -> Tokens:
        """Rows of ids, copied."""
        arrays = [np.asarray(row, dtype=np.int32) for row in rows]
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in arrays])]).astype(np.int64)
        return Tokens(np.concatenate(arrays) if arrays else np.empty(0, np.int32), offsets)

    @staticmethod
    def from_arrow(column: pa.ListArray | pa.LargeListArray | pa.ChunkedArray) -> Tokens:
        """A list<int32> column; the ids are not copied unless there are several chunks.

        Raises:
            ValueError: the column holds nulls, or values other than int32.
        """
        if isinstance(column, pa.ChunkedArray):
            column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
            if isinstance(column, pa.ChunkedArray):
                column = pa.concat_arrays(column.chunks)
        if column.null_count or column.values.null_count:
            raise ValueError("expected a token column without nulls")
        if column.values.type != pa.int32():
            raise ValueError(f"expected a token column of list<int32>, found {column.type}")
        offsets = column.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
        return Tokens(column.values.to_numpy(zero_copy_only=True), offsets)

    def to_arrow(self) -> pa.ListArray:
        """A list<int32> column over the same ids.

        Raises:
            ValueError: more than 2**31 - 1 ids, which this Arrow type cannot address.
        """
        if int(self.offsets[-1]) > LARGEST_ARROW_LIST:
            raise ValueError(f"{self.offsets[-1]} ids do not fit one list<int32> array")
        return pa.ListArray.from_arrays(
            pa.array(self.offsets.astype(np.int32)), pa.array(self.ids, type=pa.int32())
        )
