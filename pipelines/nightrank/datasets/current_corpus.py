"""The documents of a corpus as an index generation has them, and those that are tombstoned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nightrank.storage.dataset import FileRef, Manifest
from nightrank.storage.ranges import Range
from nightrank.storage.reader import Reader

# About 100 bytes a row in Arrow: 0.4 GB a task, three times that while sorting.
ROWS_PER_TASK = 4_000_000


@dataclass(frozen=True)
class CurrentCorpus:
    """The corpus as an index generation has it.

    Attributes:
        documents: the `documents` manifest of every segment, by the segment's number.
        tombstones: delta manifests whose `tombstones` count.
    """

    documents: dict[int, Manifest]
    tombstones: tuple[Manifest, ...] = ()

    def tombstone_files(self) -> list[FileRef]:
        """The tombstone files."""
        return [ref for delta in self.tombstones for ref in delta.files("tombstones") if ref.rows]


def ordinals_in(parts: list[tuple[FileRef, Sequence[Range]]], read: Reader) -> np.ndarray:
    """Ordinals (int64, ascending) of tombstones; `parts` are files with adjacent ranges of them."""
    ordinals = [read.ranges(ref, ranges)["ordinal"].to_numpy() for ref, ranges in parts]
    return np.unique(np.concatenate([np.zeros(0, np.int64), *ordinals]))


def tombstoned_ordinals(refs: list[FileRef], read: Reader) -> np.ndarray:
    """Ordinals (int64, ascending) of all tombstones in these files."""
    return ordinals_in([(ref, ref.ranges) for ref in refs if ref.ranges], read)
