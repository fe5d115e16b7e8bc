"""A small collection, and a lake that is published once for the tests that only read it."""

from __future__ import annotations

import pytest

import nightrank
from tests.support.collection import Collection
from tests.support.published import Published


@pytest.fixture(scope="package")
def small(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return Collection(tmp_path_factory.mktemp("small"), documents=200, queries=12)


@pytest.fixture(scope="package")
def published(small: Collection, tmp_path_factory: pytest.TempPathFactory) -> Published:
    config = small.config(tmp_path_factory.mktemp("published") / "lake")
    return Published(small, config, nightrank.run(config, progress=False))
