"""What fault tests share: driver processes, a collection that is ranked in a second."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.torture.drivers import Drivers
from tests.conftest import Collection


@pytest.fixture(scope="session")
def drivers() -> Iterator[Drivers]:
    made = Drivers()
    yield made
    made.close()


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is room: a lake syncs every file, and kills leave many."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or shutil.disk_usage(memory).free < 2 << 30:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="nightrank-", dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return Collection(tmp_path_factory.mktemp("small"), documents=300, queries=24)
