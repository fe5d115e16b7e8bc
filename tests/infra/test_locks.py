"""The lock files: what the project asks for, in the versions that were tested, each with hashes."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.infra.conftest import INFRA

ROOT = INFRA.parent
PIN = re.compile(r"([A-Za-z0-9._-]+)==([^\s;]+)")
OF_TORCH_FOR_GPUS = re.compile(r"torch|triton|nvidia-.*|cuda-.*")


def locked(name: str) -> dict[str, tuple[str, list[str]]]:
    """Version and hashes by package."""
    found: dict[str, tuple[str, list[str]]] = {}
    lines = (ROOT / "constraints" / f"{name}.lock").read_text().replace("\\\n", "").splitlines()
    for line in lines:
        if line.startswith("#"):
            continue
        pin, *rest = line.split()
        matched = PIN.fullmatch(pin)
        assert matched, line[:100]
        hashes = [part.removeprefix("--hash=sha256:") for part in rest]
        assert hashes and all(re.fullmatch("[0-9a-f]{64}", one) for one in hashes), line[:100]
        found[canonicalize_name(matched[1])] = (matched[2], hashes)
    return found


def pinned() -> dict[str, str]:
    text = (ROOT / "constraints" / "py311.txt").read_text()
    return {canonicalize_name(name): version for name, version in PIN.findall(text)}


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_a_lock_holds_what_the_project_asks_for_as_it_was_tested(name: str) -> None:
    lock, tested = locked(name), pinned()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"][name], "setuptools>=77"]
    for requirement in map(Requirement, asked):
        key = canonicalize_name(requirement.name)
        if name == "cpu" and key == "torch":
            continue
        assert key in lock and requirement.specifier.contains(lock[key][0]), requirement
    differing = {k: v for k, (v, _) in lock.items() if tested.get(k, v) != v}
    assert not differing


def test_the_locks_differ_by_what_a_gpu_needs() -> None:
    cpu, gpu = locked("cpu"), locked("gpu")
    rest = {k: v for k, v in gpu.items() if not OF_TORCH_FOR_GPUS.fullmatch(k)}
    assert rest.pop("faiss-gpu") and cpu.pop("faiss-cpu")
    assert rest == cpu
    assert gpu["torch"][0] == pinned()["torch"]


def test_the_image_installs_nothing_but_what_is_locked() -> None:
    text = (INFRA / "images" / "Dockerfile").read_text().replace("\\\n", "")
    installs = re.findall(r"pip install[^;&|\n]*", text)
    assert len(installs) == 3 and all("--no-deps" in line for line in installs)
    assert "--require-hashes" in installs[0] and "${EXTRA}.lock" in installs[0]
    assert "--index-url" in installs[1] and "/tmp/torch.txt" in installs[1]
    assert "--no-build-isolation" in installs[2]
