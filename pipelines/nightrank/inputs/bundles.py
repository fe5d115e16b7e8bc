"""Bundles: neighbouring small files that one unit reads together.

A unit, its record and its files cost some 20 ms and five files of the lake, whatever it reads:
1,500 files of one document each took 57 s and became 7,643 files. The end of a bundle depends only
on the path and the size of its last file (content-defined chunking over names): a file that is
added, deleted or extended changes its own bundle and no later one. Bundles keep the order of the
files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, TypeAlias

from nightrank.inputs.splits import TARGET_BYTES, Split

Bundle: TypeAlias = "tuple[Split, ...]"

# The mean size of a bundle. Reading a small file takes 3 ms, 60 ms on S3. The bundle of a changed
# file has twice the mean on average, since larger bundles hold more of the files.
MEAN_FILES, MEAN_BYTES = 32, TARGET_BYTES // 4
# The longest bundle, in means: one in 55 is cut there.
MOST_MEANS = 4
# Above this many bundles of small files the mean is doubled: a stage has at most 50,000 units.
MOST_BUNDLES = 20_000
# About the bytes of text per compressed byte of gzip, zstd and Parquet.
EXPANSION = 4


def bundled(splits: tuple[Split, ...]) -> tuple[Bundle, ...]:
    """Joins whole small files; a part of a file, and a large file, are a bundle of their own.

    Args:
        splits: in the order of the input.
    """
    return tuple(_bundles(splits))


def plain(bundle: Bundle) -> list[dict[str, Any]]:
    """Plain data for a manifest; equal for equal, unchanged files."""
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
    compressed = split.file.compression or split.file.format == "parquet"
    return split.file.size * (EXPANSION if compressed else 1)


def _ends(split: Split, chance: float) -> bool:
    """Whether a file is the last of its bundle, by a hash of its path."""
    digest = hashlib.blake2b(split.file.url.encode(), digest_size=8).digest()
    return int.from_bytes(digest) < chance * 2**64
