"""The rehearsal of the control plane at a hundredth of its size: real Ray, killed and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.rehearsal import Rehearsal
from benchmarks.rehearse import as_markdown, rehearse


@pytest.mark.ray
def test_a_driver_killed_half_way_makes_no_unit_again(tmp_path: Path) -> None:
    plan = Rehearsal(documents=24, queries=12, slices=6)
    found = rehearse(plan, tmp_path)
    killed, resumed = found["killed"], found["resumed"]
    assert found["records"] == found["units"] == plan.units == 12 * 12 + 24 * 6 + 2 * 12
    assert plan.units // 2 <= killed["units"] < plan.units
    assert killed["units"] + resumed["units"] == plan.units
    assert found["repeated"] == 0
    # What was in flight left data files without a record: merging has four a unit.
    assert 0 <= found["orphans"] <= 2 * 4
    assert found["manifests"] == 4
    assert max(killed["peak_bytes"], resumed["peak_bytes"]) < 1 << 30
    assert f"{plan.units:,} units" in as_markdown({**found, "cpus": 2})
