"""A lake of two nights, published on two days."""

from __future__ import annotations

import pytest

from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from tests.support.nights import DAYS, Nights, make_nights


@pytest.fixture(scope="session")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """Two nights, exported to `<folder>/analytics`; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("nights")
    made = make_nights(folder, str(folder / "lake"), queries=1000, wordless=1)
    for number, day in enumerate(DAYS):
        made.publish(number, day)
    assert (
        guarded(lambda **_: app(["export", made.config, "--hive", str(folder / "analytics")])) == 0
    )
    return made
