"""Bundles: neighbouring small files that one task reads together.

A task, its record and its files cost some 20 ms and five files of the lake, whatever it reads:
1,500 files of one document each made 7,643 files in 57 s. Where a bundle ends depends on the path
and the size of its last file alone (content-defined chunking over names): a file that comes, goes
or grows changes its own bundle, and none that come after. Bundles keep the order of the files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, TypeAlias

from nightrank.inputs.splits import TARGET_BYTES, Split

Bundle: TypeAlias = "tuple[Split, ...]"

# The mean size of a bundle. Reading a small file takes 3 ms, 60 ms on S3; a file that changes is on
# average in a bundle of twice the mean, since larger bundles have more of the files.
MEAN_FILES, MEAN_BYTES = 32, TARGET_BYTES // 4
# A bundle ends at this many means at the latest: one in 55 does.
MOST_MEANS = 4
# With more bundles of small files than this the mean is doubled: a stage has at most 50,000 units.
MOST_BUNDLES = 20_000
# Bytes of text per compressed byte of gzip, zstd and Parquet, about.
EXPANSION = 4


def bundled(splits: tuple[Split, ...]) -> tuple[Bundle, ...]:
    """Puts whole small files together; a part of a file and a large one are a bundle each.

    Args:
        splits: in the order of the input.
    """
    return tuple(_bundles(splits))


def plain(bundle: Bundle) -> list[dict[str, Any]]:
    """Plain data for a manifest; equal for equal files in equal state."""
    return [split.to_dict() for split in bundle]


def _bundles(splits: tuple[Split, ...]) -> Iterator[Bundle]:
    mean = MEAN_FILES
    while mean * MOST_BUNDLES < len(splits):
        mean *= 2
    bundle: list[Split] = []
    held = 0
    for split in splits:
        size = _text_bytes(split)
        alone = split.kind != "whole" or size >= MEAN_BYTES
        full = len(bundle) == MOST_MEANS * mean or held + size > TARGET_BYTES
        if bundle and (alone or full):
            yield tuple(bundle)
            bundle, held = [], 0
        bundle.append(split)
        held += size
        if alone or _ends(split, max(1 / mean, size / MEAN_BYTES)):
            yield tuple(bundle)
            bundle, held = [], 0
    if bundle:
        yield tuple(bundle)


def _text_bytes(split: Split) -> int:
    packed = split.file.compression or split.file.format == "parquet"
    return split.file.size * (EXPANSION if packed else 1)


def _ends(split: Split, chance: float) -> bool:
    """Whether a file is the last of its bundle, by a draw that its path decides."""
    digest = hashlib.blake2b(split.file.url.encode(), digest_size=8).digest()
    return int.from_bytes(digest) < chance * 2**64
