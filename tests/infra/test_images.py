"""The image definition: linted, unprivileged, and made of what the repository has."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.support.manifests import INFRA

ROOT = INFRA.parent
DOCKERFILE = INFRA / "images" / "Dockerfile"
HADOLINT = Path(sys.executable).parent / "hadolint"


def instructions() -> list[tuple[str, str]]:
    """Every instruction with its arguments, continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [(w, rest.strip()) for w, _, rest in (x.partition(" ") for x in text.splitlines()) if w]


def test_the_linter_has_nothing_to_say() -> None:
    for path in (DOCKERFILE,):
        linted = subprocess.run([str(HADOLINT), str(path)], capture_output=True, text=True)
        assert linted.returncode == 0, linted.stdout


def test_the_linter_would_say_something(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python:latest\nRUN cd /x && pip install ray\n")
    assert subprocess.run([str(HADOLINT), str(bad)], capture_output=True).returncode != 0


def test_the_base_can_be_given_by_digest_and_is_the_python_of_the_constraints() -> None:
    arguments = dict(rest.split("=", 1) for word, rest in instructions() if word == "ARG")
    image = arguments["PYTHON_IMAGE"]
    assert re.fullmatch(r"docker\.io/library/python:3\.11-[a-z-]+", image)
    assert (ROOT / "constraints" / "py311.txt").exists()
    stages = [rest.split()[0] for word, rest in instructions() if word == "FROM"]
    assert stages == ["${PYTHON_IMAGE}"] * 2


def test_the_image_ends_unprivileged_with_its_programs_on_a_login_shells_path() -> None:
    words = instructions()
    assert [rest for word, rest in words if word == "USER"] == ["10001:10001"]
    assert words[-1][0] == "CMD" and words[-2][0] == "USER"
    copied = [rest for word, rest in words if word == "COPY" and "--from=build" in rest]
    assert copied == ["--from=build /install /usr/local"]
    environment = " ".join(rest for word, rest in words if word == "ENV")
    assert "RAY_AUTH_MODE=token" in environment and "HF_HUB_OFFLINE=1" in environment


def test_what_is_copied_exists_and_reaches_the_builder() -> None:
    ignored = (INFRA / "images" / "Dockerfile.dockerignore").read_text().splitlines()
    sent = {line[1:].rstrip("/") for line in ignored if line.startswith("!")}
    sources: set[str] = set()
    for word, rest in instructions():
        if word == "COPY" and "--from" not in rest:
            sources |= {part.rstrip("/") for part in rest.split()[:-1]}
    assert sources == sent
    assert all((ROOT / source).exists() for source in sources)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # What the build of the package reads.
    read = map(Path, (project["readme"], *project["license-files"]))
    assert all({str(path), *map(str, path.parents)} & sources for path in read)


def test_the_overlay_and_the_runbook_name_the_images_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    overlay = (INFRA / "kubernetes" / "aws" / "kustomization.yaml").read_text()
    tags = {f"{version}-{kind}" for kind in ("cpu", "gpu", "gpu-index")}
    assert set(re.findall(r"newTag: (\S+)", overlay)) == tags
    assert re.findall(r"docker push \S+:(\S+)", (INFRA / "RUNBOOK.md").read_text())[0] in tags


def test_make_builds_an_image_of_each_lock_file() -> None:
    shown = subprocess.run(["make", "-n", "images"], cwd=ROOT, capture_output=True, text=True)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    builds = [line for line in shown.stdout.splitlines() if line.startswith("docker build")]
    assert all("infra/images/Dockerfile" in line for line in builds)
    default = dict(rest.split("=", 1) for word, rest in instructions() if word == "ARG")["LOCK"]
    locks = []
    for line in builds:
        given = re.search(r"LOCK=(\S+)", line)
        locks.append(given.group(1) if given else default)
        assert f"--tag nightrank:{version}-{locks[-1]} " in line
        # torch comes from PyTorch's index where the lock file leaves it out.
        locked = "\ntorch==" in (ROOT / f"constraints/{locks[-1]}.lock").read_text()
        assert ("TORCH_INDEX= " in line) == locked
    assert sorted(locks) == sorted(p.stem for p in (ROOT / "constraints").glob("*.lock"))
