"""A user's own modules in the working directory take the place of none that the program loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nightrank.generations.results import read_results
from nightrank.process.search_path import (
    PACKAGE_ROOT,
    holds_this_package,
    leave_out_working_directory,
)
from tests.support.cluster import ON_RAY
from tests.support.collection import Collection

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = "jobs pipelines stages models storage config runtime inputs flow cli numpy tokenizers"
MODULES = "ray torch pyarrow pydantic typer yaml orjson common utils"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A directory whose modules must not be imported, and a small collection."""
    for name in PACKAGES.split():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('own {name}')\n")
    for name in MODULES.split():
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('own {name}')\n")
    Collection(tmp_path / "in", documents=40, queries=4)
    return tmp_path


def run(hostile: Path, cluster: dict[str, Any], *command: str) -> None:
    """Runs the program in that directory, with it on PYTHONPATH, under a name and absolutely."""
    plain = Collection(hostile / "in", documents=40, queries=4).config("lake", cluster=cluster)
    plain["evaluate"] = {}
    (hostile / "config.yaml").write_text(json.dumps(plain))
    path = os.pathsep.join([".", str(hostile)])
    done = subprocess.run(
        [sys.executable, *command, "config.yaml"],
        cwd=hostile,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert read_results(str(hostile / "lake"), "tiny").to_table().num_rows == 4 * 5


@pytest.mark.ray
@pytest.mark.parametrize(
    "command",
    [("-m", "nightrank", "run"), (str(REPOSITORY / "jobs" / "nightly.py"),)],
    ids=["nightrank run", "jobs/nightly.py"],
)
def test_on_ray_neither_the_driver_nor_a_worker_imports_from_there(
    hostile: Path, command: tuple[str, ...]
) -> None:
    """`-m` puts the working directory first, and PYTHONPATH before the installed packages."""
    run(hostile, ON_RAY, *command)


def test_only_the_working_directory_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = str(tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.setattr(sys, "path", ["", ".", str(tmp_path), str(tmp_path / "link"), other])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([".", other, "", str(tmp_path)]))
    leave_out_working_directory()
    assert sys.path == [other] and os.environ["PYTHONPATH"] == other


def test_where_the_package_itself_is_found_the_directory_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(PACKAGE_ROOT)
    monkeypatch.setattr(sys, "path", ["", "/elsewhere"])
    leave_out_working_directory()
    assert sys.path == ["", "/elsewhere"]
    assert holds_this_package(PACKAGE_ROOT) and not holds_this_package("/elsewhere")
