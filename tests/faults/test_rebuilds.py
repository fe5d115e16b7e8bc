"""Fifty random sequences of nights end in what a run from nothing gives.

Nights add, change, delete and bring back documents, are repeated, and return to an older state.
Under one template Flat and IVF lists are those of a rebuild, row for row: no recall is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nightrank.cli.verify import verify
from tests.support.lake import run, table
from tests.support.world import World, same_template

pytestmark = pytest.mark.timeout(600)
KINDS: dict[str, dict[str, Any]] = {
    "flat": {},
    "vectors alone": {"retrieve": {"depth": 12, "bm25": {"weight": 0.0}}},
    "ivf": {"index": {"factory": "IVF4,Flat", "search_parameters": "nprobe=2"}},
    "merged": {"nightly": {"max_segments": 2, "max_dead_fraction": 0.1, "store_files": 2}},
    "many shards": {"layout": {"document_shard_rows": 16, "query_shard_rows": 3}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_of_nights_equals_a_rebuild(
    tmp_path: Path, write_config: Callable[..., str], kind: str
) -> None:
    base = {"retrieve": {"depth": 12}, "rerank": {"depth": 8}}
    taken_over = 0
    for seed in range(5):
        folder = tmp_path / str(seed)
        world = World(folder, 1000 + seed, documents=60, queries=8)
        sections = {**base, **KINDS[kind]}
        config = write_config(world.config(folder / "lake", **sections), f"{seed}.yaml")
        older = dict(world.documents)
        for number in range(3):
            before = dict(world.documents)
            if number == 2 and seed % 3 == 1:  # What was two nights ago is delivered again.
                world.documents = older
            elif number:
                world.night()
            older = before
            world.write()
            made = run(config)
            taken_over += made["pairs_reused"]
            if number == seed % 5:
                assert run(config)["already_published"]
        fresh = folder / "fresh"
        same_template(folder / "lake", fresh)
        run(write_config(world.config(fresh, **sections), f"fresh-{seed}.yaml"))
        for name in ("ranked", "queries", "rejects"):
            assert table(folder / "lake", name).equals(table(fresh, name)), (seed, name)
    verify(config)
    assert taken_over > 200
