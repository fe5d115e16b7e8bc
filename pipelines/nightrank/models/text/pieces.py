"""A batch as pieces of stored token ids, put together where they are needed.

Which ids stand in a batch is known from a few numbers a row; the ids themselves are gathered by
whoever runs the network: on a CPU as padded rows, on a GPU end to end and by the GPU itself, which
then never waits for the host to copy ids (3 ms of a core of a Zen 3 a batch of 65,536 tokens, where
an H100 takes 5.6 ms for all six layers of MiniLM).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Source:
    """What the pieces of a unit's batches are taken from.

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
        starts: int64 [n, k], where each piece begins in the source.
        sizes: int64 [n, k], its ids; 0 where an input has no such piece.
        first_lengths: int64 [n], tokens of each input's first text.
        padding: id that fills rows up.
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
        """Inputs of one piece, of which the first text's end is not known and given as 0.

        Args:
            source: of the ids.
            starts: int64 [n].
            lengths: int64 [n].
            padding: id that fills rows up.
        """
        return Batch(source, starts[:, None], lengths[:, None], np.zeros_like(lengths), padding)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [n], tokens of each input."""
        found: NDArray[np.int64] = self.sizes.sum(axis=1)
        return found

    @cached_property
    def shifts(self) -> NDArray[np.int64]:
        """int64 [n * k]: a piece's place in the source, less its place with all end to end."""
        sizes = self.sizes.ravel()
        found: NDArray[np.int64] = self.starts.ravel() - (np.cumsum(sizes) - sizes)
        return found

    @cached_property
    def input_ids(self) -> NDArray[np.int32]:
        """int32 [n, longest], padded on the right."""
        return self._rows(self.source.ids, self.padding)

    @cached_property
    def token_types(self) -> NDArray[np.int32]:
        """int32 [n, longest]; 0 in the padding."""
        return self._rows(self.source.types, 0)

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """int64, places in the source of all tokens, end to end."""
        found: NDArray[np.int64] = np.repeat(self.shifts, self.sizes.ravel())
        found += np.arange(len(found))
        return found

    def _rows(self, values: NDArray[np.int32], padding: int) -> NDArray[np.int32]:
        shape = len(self.lengths), int(self.lengths.max(initial=1))
        rows = np.full(shape, padding, np.int32)
        rows[np.arange(shape[1]) < self.lengths[:, None]] = values[self._places]
        return rows
