"""Readers in processes of their own while runs publish and collect: each reads one state, whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.torture.drivers import REPOSITORY, Drivers
from tests.support.collection import Collection

PUBLICATIONS = 18
LAYOUT = {"document_shard_rows": 100, "query_shard_rows": 12}


@pytest.mark.timeout(900)
def test_readers_see_whole_generations_while_runs_publish_and_collect(
    small: Collection, drivers: Drivers, tmp_path: Path, write_config: Callable[..., str]
) -> None:
    root, stop = tmp_path / "lake", tmp_path / "stop"

    def publish(number: int) -> str:
        keep = 1 + number % 15
        plain = small.config(root, results={"keep": keep}, layout=LAYOUT, evaluate={"qrels": None})
        config = write_config(plain)
        code, told = drivers.run("run", config)
        assert code == 0, told
        return config

    publish(1)
    histories = [tmp_path / f"reader{number}" for number in range(2)]
    script = "import sys; from tests.support.reading import loop; loop(*sys.argv[1:])"
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(root), str(history), str(stop)],
            cwd=REPOSITORY,
            stderr=subprocess.PIPE,
            text=True,
        )
        for history in histories
    ]
    deleted = 0
    for number in range(2, PUBLICATIONS + 1):
        config = publish(number)
        if number % 3 == 0:
            _age(root)
            before = len(list(root.rglob("*.parquet")))
            keep = ("--retain", "8", "--min-age-days", "1", "--delete")
            code, told = drivers.run("gc", config, *keep)
            assert code == 0, told
            deleted += before - len(list(root.rglob("*.parquet")))
    stop.touch()
    for reader in readers:
        _, stderr = reader.communicate(timeout=120)
        assert reader.returncode == 0, stderr
    assert deleted > 25, "gc had nothing to do"
    check([[json.loads(line) for line in path.read_text().splitlines()] for path in histories])


def check(histories: list[list[dict[str, float]]]) -> None:
    """Every generation the same bytes to everyone, time after time, and never an older one."""
    digests = defaultdict(set)
    for history in histories:
        assert len(history) >= 5, "void: the reader hardly read"
        numbers = [read["generation"] for read in history]
        assert numbers == sorted(numbers)
        assert len(set(numbers)) >= 3, "void: the reader saw hardly anything published"
        for read in history:
            digests[read["generation"]].add(read["digest"])
    assert all(len(found) == 1 for found in digests.values())


def _age(root: Path) -> None:
    for path in root.rglob("*"):
        if path.is_file():
            os.utime(path, (path.stat().st_mtime - 2 * 86_400,) * 2)
