"""A clock that is a day ahead, a day behind, or steps back changes nothing that is decided."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.torture.drivers import Drivers
from nightrank.generations.results import generation_of, open_lake
from tests.support.collection import Collection
from tests.support.lake import digests

DAY = 86_400
LAYOUT = {"document_shard_rows": 100, "query_shard_rows": 12}
CLOCKS = {
    "ahead": {"seconds": DAY},
    "behind": {"seconds": -DAY},
    "stepping back": {"seconds": DAY, "back_after": 5},
}


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_run_and_gc_do_the_same_under_any_clock(
    small: Collection,
    drivers: Drivers,
    tmp_path: Path,
    write_config: Callable[..., str],
    clock: str,
) -> None:
    """An older generation and half a run are 30 hours old: two days spare them, one does not."""
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    assert drivers.run("run", write_config(small.config(right, layout=LAYOUT)))[0] == 0
    shutil.copytree(right, wrong)
    for root, shifted in ((right, {}), (wrong, {"shift_clock": CLOCKS[clock]})):
        plain = small.config(root, rerank={"depth": 7}, layout=LAYOUT)
        config = write_config(plain, f"{root.name}.yaml")
        code, told = drivers.run("run", config, **shifted)
        assert code == 0, told
        plain = small.config(root, rerank={"depth": 9}, layout=LAYOUT)
        half = write_config(plain, f"{root.name}-half.yaml")
        assert drivers.run("run", half, "--to", "merge", **shifted)[0] == 0
        for path in root.rglob("*"):
            if path.is_file():
                os.utime(path, (path.stat().st_mtime - 1.25 * DAY,) * 2)
        old = set(root.rglob("_data/*"))
        keep = ("--retain", "1", "--delete", "--min-age-days")
        assert drivers.run("gc", config, *keep, "2", **shifted)[0] == 0
        assert set(root.rglob("_data/*")) == old, "younger than two days"
        assert drivers.run("gc", config, *keep, "1", **shifted)[0] == 0
        assert set(root.rglob("_data/*")) < old
    assert digests(right) == digests(wrong)
    kept = [sorted(p.parent.parent.name for p in root.rglob("_data/*")) for root in (right, wrong)]
    assert kept[0] == kept[1]


def test_the_later_publication_counts_though_its_clock_is_behind(
    small: Collection, drivers: Drivers, tmp_path: Path, write_config: Callable[..., str]
) -> None:
    for number, seconds in ((1, DAY), (2, -DAY)):
        plain = small.config(tmp_path / "lake", rerank={"depth": 6 + number}, layout=LAYOUT)
        code, told = drivers.run("run", write_config(plain), shift_clock={"seconds": seconds})
        assert code == 0, told
    entry = generation_of(open_lake(str(tmp_path / "lake"), "tiny"))
    assert entry.generation == 2 and entry.body["rerank_depth"] == 8
