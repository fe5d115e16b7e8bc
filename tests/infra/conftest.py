"""The manifests as `kubectl apply -k` would send them."""

from __future__ import annotations

import pytest

from tests.support.manifests import Manifest, render


@pytest.fixture(scope="session")
def manifests() -> list[Manifest]:
    return render("aws")
