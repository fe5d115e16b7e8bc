"""A disk that is full at any byte of any kind of file: exit 8, nothing is lost, it resumes."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.torture.drivers import Drivers
from tests.support.collection import Collection, write_jsonl
from tests.support.lake import digests

# Measured is what is published already: that would be another ending.
SECTIONS = {
    "layout": {"document_shard_rows": 100, "query_shard_rows": 12},
    "evaluate": {"qrels": None},
}
# How many offsets in files of each kind: suffixes of data files, crash points of the others.
OFFSETS = {
    ".parquet": 3,
    ".faiss": 2,
    ".scatter": 2,
    "create record": 2,
    "create manifest": 2,
    "create plan": 1,
    "create index entry": 1,
    "create results entry": 1,
}


@pytest.mark.timeout(900)
def test_a_full_disk_is_exit_8_and_the_same_command_completes(
    small: Collection, drivers: Drivers, tmp_path: Path, write_config: Callable[..., str]
) -> None:
    """The second run of a lake, with new documents, so that every kind of file is written."""
    rng, lake = random.Random(5), tmp_path / "lake"
    half = write_jsonl(tmp_path / "half.jsonl", small.documents[:150])
    first = small.config(lake, corpus={"path": str(half)}, **SECTIONS)
    assert drivers.run("run", write_config(first, "first.yaml"))[0] == 0
    old = digests(lake)
    whole, listed = tmp_path / "whole", tmp_path / "points"
    shutil.copytree(lake, whole)
    config = write_config(small.config(whole, **SECTIONS), "whole.yaml")
    code, told = drivers.run("run", config, list_to={"root": str(whole), "path": str(listed)})
    assert code == 0, told
    wanted = digests(whole)
    for number, (name, occurrence, size) in enumerate(chosen(listed, rng)):
        root, where = tmp_path / f"lake{number}", f"{name} {occurrence} at byte {size}"
        shutil.copytree(lake, root)
        config = write_config(small.config(root, **SECTIONS), f"{number}.yaml")
        full = {"root": str(root), "name": name, "number": occurrence, "size": size}
        code, told = drivers.run("run", config, fill_at=full)
        assert code == 8 and "error[E_DISK]: no space left" in told, f"{where}: {code} {told}"
        assert digests(root) == old, where
        assert not list(root.rglob("*.tmp-*")), f"{where}: something was left to fill the disk"
        code, told = drivers.run("run", config)
        assert code == 0 and digests(root) == wanted, f"{where}: {told}"
        shutil.rmtree(root)


def chosen(listed: Path, rng: random.Random) -> list[tuple[str, int, int]]:
    """Crash point, occurrence and byte of every trial; the last bytes of files among them."""
    seen: dict[str, int] = {}
    found: dict[str, list[tuple[str, int, int]]] = {kind: [] for kind in OFFSETS}
    for line in listed.read_text().splitlines():
        name, path = line.split("\t")
        seen[name] = seen.get(name, 0) + 1
        final = Path(path.partition(".tmp-")[0])
        kind = final.suffix if name == "create data" else name
        if kind in found and final.stat().st_size:
            found[kind].append((name, seen[name], final.stat().st_size))
    trials = []
    for kind, count in OFFSETS.items():
        for number in range(count):
            name, occurrence, size = rng.choice(found[kind])
            # Seconds and times in JSON make it a few bytes shorter in one run than in another.
            last = size - 1 if name == "create data" else size - 100
            at = last if number == 0 else rng.randrange(last)
            trials.append((name, occurrence, at))
    assert len(trials) == 14
    return trials
