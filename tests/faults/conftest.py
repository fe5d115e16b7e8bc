"""What fault tests share: driver processes, a collection that is ranked in a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.torture.drivers import Drivers
from tests.support.collection import Collection


@pytest.fixture(scope="session")
def drivers() -> Iterator[Drivers]:
    made = Drivers()
    yield made
    made.close()


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return Collection(tmp_path_factory.mktemp("small"), documents=300, queries=24)
