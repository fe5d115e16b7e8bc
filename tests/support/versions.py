"""Raises the version of a declared stage, as an upgrade that changes its meaning does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nightrank.generations import stage_order


def raise_version(monkeypatch: pytest.MonkeyPatch, stage: str) -> int:
    """Declares the stage with its next version; returns that."""
    (module,) = [one for one in stage_order.MODULES if one.STAGE.name == stage]
    version = module.STAGE.version + 1
    monkeypatch.setattr(module, "STAGE", replace(module.STAGE, version=version))
    return version
