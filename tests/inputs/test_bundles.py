"""Small files are read together, and what comes or goes moves no other file's bundle."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nightrank.inputs import bundles
from nightrank.inputs.bundles import MEAN_FILES, MOST_MEANS, Bundle, bundled
from nightrank.inputs.splits import TARGET_BYTES, InputFile, Split

MIB = 1 << 20


def whole(name: str, size: int = 100, identity: str = "sha256:0", **more: str) -> Split:
    return Split(InputFile(name, size, identity, "jsonl", **more), "whole", 0, size)


def urls(found: tuple[Bundle, ...]) -> list[list[str]]:
    return [[split.file.url for split in bundle] for bundle in found]


SMALL = tuple(whole(f"in/{i:05d}.jsonl") for i in range(4000))


def test_bundles_keep_every_split_in_its_order() -> None:
    found = bundled(SMALL)
    assert tuple(split for bundle in found for split in bundle) == SMALL
    assert max(map(len, found)) <= MOST_MEANS * MEAN_FILES
    assert MEAN_FILES / 1.5 < len(SMALL) / len(found) < MEAN_FILES * 1.5
    assert bundled(()) == ()


@pytest.mark.parametrize("at", [0, 1, 1999, 3999])
@pytest.mark.parametrize("change", ["goes", "comes", "grows", "another"])
def test_a_change_of_one_file_leaves_the_bundles_of_the_others(at: int, change: str) -> None:
    files = list(SMALL)
    if change == "goes":
        del files[at]
    elif change == "comes":
        files.insert(at, whole(f"{SMALL[at].file.url}.new.jsonl"))
    else:
        size = MIB if change == "grows" else 100
        files[at] = whole(SMALL[at].file.url, size, "sha256:1")
    before, after = bundled(SMALL), bundled(tuple(files))
    # Its own bundle; where it ended that, or the length does, the next as well.
    assert len(set(after) - set(before)) <= 2
    assert len(after) - len(before) in (-1, 0, 1)


def test_parts_and_large_files_are_bundles_of_their_own() -> None:
    large = whole("in/b.jsonl", TARGET_BYTES)
    parts = [replace(large, kind="bytes", start=i, stop=i + 1) for i in range(3)]
    packed = whole("in/c.jsonl.gz", TARGET_BYTES // 16, compression="gzip")
    splits = (whole("in/a.jsonl"), *parts, packed, whole("in/d.jsonl"), large)
    assert bundled(splits) == tuple((split,) for split in splits)


def test_bytes_bound_a_bundle() -> None:
    found = bundled(tuple(whole(f"in/{i}.jsonl", 4 * MIB) for i in range(1000)))
    sizes = [sum(split.file.size for split in bundle) for bundle in found]
    assert max(sizes) <= TARGET_BYTES
    assert 16 * MIB < sum(sizes) / len(sizes) < 64 * MIB


def test_a_great_many_files_make_no_more_units_than_a_stage_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bundles, "MOST_BUNDLES", 10)
    assert len(bundled(SMALL)) <= 20


def test_bundles_depend_on_no_identity() -> None:
    again = tuple(whole(split.file.url, 100, "sha256:other") for split in SMALL)
    assert urls(bundled(again)) == urls(bundled(SMALL))
