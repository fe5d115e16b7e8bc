"""A batch as pieces of stored token ids, gathered where they are needed.

A few numbers per row define the ids of a batch; the engine gathers the ids: a CPU as padded rows, a
GPU concatenated and by itself, so that it never waits for the host to copy ids (3 ms of one core of
a Zen 3 for a batch of 65,536 tokens, where an H100 takes 5.6 ms for all six layers of MiniLM).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Source:
    """The token ids of a unit, from which its batches take pieces.

    Attributes:
        ids: int32 [m], token ids.
        types: int32 [m], their types.
    """

    ids: NDArray[np.int32]
    types: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Batch:
    """n inputs of k pieces each.

    Attributes:
        source: of the ids.
        starts: int64 [n, k], the start of each piece in the source.
        sizes: int64 [n, k], ids of each piece; 0 where an input has no such piece.
        first_lengths: int64 [n], tokens of each input's first text.
        padding: id of the padding token.
    """

    source: Source
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    first_lengths: NDArray[np.int64]
    padding: int

    @staticmethod
    def of_rows(
        source: Source,
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        padding: int,
    ) -> Batch:
        """Inputs of one piece; the length of the first text is not known and is 0.

        Args:
            source: of the ids.
            starts: int64 [n].
            lengths: int64 [n].
            padding: id of the padding token.
        """
        return Batch(source, starts[:, None], lengths[:, None], np.zeros_like(lengths), padding)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [n], tokens of each input."""
        lengths: NDArray[np.int64] = self.sizes.sum(axis=1)
        return lengths

    @cached_property
    def shifts(self) -> NDArray[np.int64]:
        """int64 [n * k]: a piece's start in the source, minus its start in the packed batch."""
        sizes = self.sizes.ravel()
        shifts: NDArray[np.int64] = self.starts.ravel() - (np.cumsum(sizes) - sizes)
        return shifts

    @cached_property
    def input_ids(self) -> NDArray[np.int32]:
        """int32 [n, longest], padded on the right."""
        return self._rows(self.source.ids, self.padding)

    @cached_property
    def token_types(self) -> NDArray[np.int32]:
        """int32 [n, longest]; 0 in the padding."""
        return self._rows(self.source.types, 0)

    @cached_property
    def _positions(self) -> NDArray[np.int64]:
        """int64 [tokens], positions in the source of all tokens of the batch."""
        positions: NDArray[np.int64] = np.repeat(self.shifts, self.sizes.ravel())
        positions += np.arange(len(positions))
        return positions

    def _rows(self, values: NDArray[np.int32], padding: int) -> NDArray[np.int32]:
        shape = len(self.lengths), int(self.lengths.max(initial=1))
        rows = np.full(shape, padding, np.int32)
        rows[np.arange(shape[1]) < self.lengths[:, None]] = values[self._positions]
        return rows
