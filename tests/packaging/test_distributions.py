"""What the wheel and the sdist hold, and what building them prints."""

from __future__ import annotations

import hashlib
import tarfile
import tomllib
from pathlib import Path
from zipfile import ZipFile

from packaging.specifiers import SpecifierSet

from tests.support.environments import INTERPRETERS, REPOSITORY, Distributions, build


def contents(wheel: Path) -> dict[str, str]:
    """The sha256 of each file of a wheel, by name."""
    with ZipFile(wheel) as archive:
        return {
            name: hashlib.sha256(archive.read(name)).hexdigest()
            for name in archive.namelist()
            if not name.endswith("/")
        }


def test_building_prints_no_warning(distributions: Distributions) -> None:
    assert "Successfully built" in distributions.log
    lines = distributions.log.lower().splitlines()
    complaints = ("warn", "deprecat", "would be ignored", "is absent from")
    assert not [line for line in lines if any(word in line for word in complaints)]


def test_the_wheel_holds_every_file_of_the_package(distributions: Distributions) -> None:
    package = distributions.source / "pipelines"
    expected = {
        str(path.relative_to(package))
        for path in package.rglob("*")
        if path.is_file() and not {"__pycache__", "nightrank.egg-info"} & set(path.parts)
    }
    packaged = {name for name in contents(distributions.wheel) if ".dist-info/" not in name}
    assert packaged == expected
    assert {"nightrank/py.typed", "nightrank/models/builtin/reranker/config.json"} <= packaged


def test_the_sdist_builds_the_same_wheel_as_the_source(
    distributions: Distributions, tmp_path: Path
) -> None:
    build(distributions.source, tmp_path, "--wheel")
    (direct,) = tmp_path.glob("*.whl")
    assert contents(direct) == contents(distributions.wheel)


def test_the_sdist_holds_sources_and_no_tests(distributions: Distributions) -> None:
    with tarfile.open(distributions.sdist) as archive:
        names = {Path(*Path(name).parts[1:]) for name in archive.getnames()}
    folders = {name.parts[0] for name in names if len(name.parts) > 1}
    assert folders == {"pipelines"} and not [name for name in names if name.suffix == ".pyc"]
    assert {Path(name) for name in ("LICENSE", "NOTICE", "README.md", "pyproject.toml")} <= names


def test_the_metadata_names_the_interpreters_that_are_tested(distributions: Distributions) -> None:
    metadata = distributions.metadata()
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert metadata["Version"] == project["version"]
    supported = SpecifierSet(metadata["Requires-Python"])
    candidates = [f"3.{minor}" for minor in range(9, 20)]
    assert [version for version in candidates if version in supported] == list(INTERPRETERS)
    classifiers = metadata.get_all("Classifier", [])
    prefix = "Programming Language :: Python :: "
    named = {c.removeprefix(prefix) for c in classifiers if c.startswith(prefix)}
    assert named == {"3 :: Only", *INTERPRETERS}
