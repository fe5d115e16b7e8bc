"""The wheel and the sdist, and environments that hold the wheel without the model libraries."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.cluster import ON_RAY
from tests.support.collection import Collection
from tests.support.environments import (
    INTERPRETERS,
    REPOSITORY,
    Distributions,
    Environment,
    build,
    interpreter,
    requirements,
    uv,
)

# Beside uv's cache, from which it links files: in memory the environments would take 3 GB.
ENVIRONMENTS = REPOSITORY / "build" / "environments"
# Of the source tree, what a build reads.
SOURCES = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "NOTICE")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--distributions", help="Folder that keeps the wheel and the sdist.")


@pytest.fixture(scope="session")
def distributions(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Distributions:
    """The wheel and the sdist of a copy, which has bytecode but no leftovers of other builds."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copy(REPOSITORY / name, source)
    unpackaged = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(REPOSITORY / "pipelines", source / "pipelines", ignore=unpackaged)
    bytecode = source / "pipelines" / "nightrank" / "cli" / "__pycache__"
    bytecode.mkdir()
    (bytecode / "app.cpython-311.pyc").write_bytes(b"")
    kept = request.config.getoption("--distributions", default=None)
    target = Path(kept).resolve() if kept else tmp_path_factory.mktemp("dist")
    log = build(source, target)
    (sdist,), (wheel,) = target.glob("nightrank-*.tar.gz"), target.glob("nightrank-*.whl")
    return Distributions(source, sdist, wheel, log)


@pytest.fixture(scope="module", params=INTERPRETERS)
def environment(
    request: pytest.FixtureRequest,
    distributions: Distributions,
    tmp_path_factory: pytest.TempPathFactory,
) -> Environment:
    """A fresh environment of one interpreter, with the tested versions of every dependency."""
    version = request.param
    base = interpreter(version)
    if base is None:
        pytest.skip(f"no Python {version} on this machine: neither on PATH nor uv's nor pyenv's")
    venv = ENVIRONMENTS / version
    uv("venv", "--quiet", "--clear", "--python", base, str(venv))
    install = ("pip", "install", "--quiet", "--python", str(venv))
    constraints = str(REPOSITORY / "constraints" / "py311.txt")
    uv(*install, "--constraint", constraints, *requirements(distributions))
    uv(*install, "--no-deps", str(distributions.wheel))
    folder = tmp_path_factory.mktemp("working-directory")
    collection = Collection(folder / "in", documents=60, queries=6)
    plain = collection.config(folder / "lake", cluster=ON_RAY)
    (folder / "config.yaml").write_text(json.dumps(plain))  # JSON is YAML.
    return Environment(version, venv, folder)
