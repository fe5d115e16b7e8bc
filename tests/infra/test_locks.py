"""The lock files: what the project asks for, in the versions that were tested, each with hashes."""

from __future__ import annotations

import hashlib
import json
import re
import runpy
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.manifests import INFRA

ROOT = INFRA.parent
PIN = re.compile(r"([A-Za-z0-9._-]+)==([^\s;]+)")
OF_CUDA = re.compile(r"torch|triton|nvidia-.*|cuda-.*")
# The extra that each is of.
LOCKS = {"cpu": "cpu", "gpu": "cpu", "gpu-index": "gpu"}
# Of NVIDIA's wheels: in the name, or (cuda-toolkit, cublas and the like) the version's own start.
MAJOR = re.compile(r"-cu(\d+)$")


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


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_what_the_project_asks_for_as_it_was_tested(name: str) -> None:
    lock, tested = locked(name), pinned()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        *project["dependencies"],
        *project["optional-dependencies"][LOCKS[name]],
        "setuptools>=77",
    ]
    for requirement in map(Requirement, asked):
        key = canonicalize_name(requirement.name)
        if name != "gpu" and key == "torch":
            continue
        assert key in lock and requirement.specifier.contains(lock[key][0]), requirement
    differing = {k: v for k, (v, _) in lock.items() if tested.get(k, v) != v}
    assert not differing


def test_the_locks_differ_by_what_a_gpu_needs() -> None:
    cpu, gpu, index = (locked(name) for name in LOCKS)
    plain = {k: v for k, v in cpu.items() if k != "faiss-cpu"}
    for lock, faiss in ((gpu, "faiss-cpu"), (index, "faiss-gpu")):
        rest = {k: v for k, v in lock.items() if not OF_CUDA.fullmatch(k)}
        assert rest.pop(faiss) and rest == plain
    assert gpu["torch"][0] == pinned()["torch"] and "torch" not in index


def cuda_majors(lock: dict[str, tuple[str, list[str]]]) -> set[str]:
    """CUDA majors of NVIDIA's libraries: by their names, else the toolkit's, which has theirs."""
    named = {found[1] for name in lock if (found := MAJOR.search(name))}
    toolkit = lock.get("cuda-toolkit")
    return named | ({toolkit[0].split(".")[0]} if toolkit else set())


@pytest.mark.parametrize(
    ("name", "majors"), [("cpu", set()), ("gpu", {"13"}), ("gpu-index", {"12"})]
)
def test_a_lock_brings_one_cuda_major_at_most(name: str, majors: set[str]) -> None:
    lock = locked(name)
    assert cuda_majors(lock) == majors
    if "faiss-gpu" in lock:  # Of it alone: all that is NVIDIA's is what FAISS asks for.
        assert {k for k in lock if k.startswith(("nvidia-", "cuda-"))} == {
            *("nvidia-cublas-cu12", "nvidia-cuda-nvrtc-cu12"),
            *("nvidia-cuda-runtime-cu12", "nvidia-curand-cu12"),
        }


def test_the_runbook_says_what_images_weigh() -> None:
    sizes = json.loads((ROOT / "constraints" / "sizes.json").read_text())
    assert set(sizes) == set(LOCKS)
    book = (INFRA / "RUNBOOK.md").read_text()
    for name, size in sizes.items():
        path = ROOT / "constraints" / f"{name}.lock"
        # Another lock file is other wheels: `make sizes`.
        assert size["lock_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest(), name
        assert size["wheels"] == len(locked(name)) + ("torch" not in locked(name))
        (row,) = re.findall(rf"(?m)^\| `-{name}` \|.*$", book)
        _, _, _, packages, download, unpacked, cuda, _ = (cell.strip() for cell in row.split("|"))
        assert packages == str(size["wheels"])
        assert download == f"{size['download_bytes'] / 1e9:.2f} GB"
        assert unpacked == f"{size['unpacked_bytes'] / 1e9:.1f} GB"
        assert cuda == (", ".join(cuda_majors(locked(name))) or "none")


def test_wheels_are_weighed_packed_and_unpacked(tmp_path: Path) -> None:
    weigher = runpy.run_path(str(ROOT / "constraints" / "sizes.py"))
    lock = tmp_path / "some.lock"
    lock.write_text("Some.Package==1.0 \\\n    --hash=sha256:0\ntorch==2.0\n")
    wheels = {}
    for number, pin in enumerate((("some-package", "1.0"), ("torch", "2.0"))):
        wheels[pin] = tmp_path / f"{number}.whl"
        with zipfile.ZipFile(wheels[pin], "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("zeros", bytes(100_000))
            file.writestr("more", b"x" * number)
    found = weigher["weighed"](lock, wheels)
    assert (found["wheels"], found["unpacked_bytes"]) == (2, 200_001)
    assert found["download_bytes"] == sum(p.stat().st_size for p in wheels.values()) < 2000
    lock.write_text("some-package==1.0\n")
    assert weigher["wanted"](lock) == {
        ("some-package", "1.0"),
        ("torch", f"{pinned()['torch']}+cpu"),
    }


def test_what_writes_the_locks_keeps_the_majors_apart() -> None:
    writer = runpy.run_path(str(ROOT / "constraints" / "lock.py"))
    assert writer["EXTRAS"] == LOCKS
    # As it compiles the extra gpu: both, of which FAISS's alone are left.
    both = locked("gpu") | locked("gpu-index")
    text = "".join(
        f"{name}=={version} \\\n    --hash=sha256:0\n" for name, (version, _) in both.items()
    )
    left = set(re.findall(r"(?m)^([a-z0-9-]+)==", writer["without_torch"](text)))
    assert left - {"faiss-cpu"} == set(locked("gpu-index"))


def test_the_image_installs_nothing_but_what_is_locked() -> None:
    text = (INFRA / "images" / "Dockerfile").read_text().replace("\\\n", "")
    installs = re.findall(r"pip install[^;&|\n]*", text)
    assert len(installs) == 3 and all("--no-deps" in line for line in installs)
    assert "--require-hashes" in installs[0] and "${LOCK}.lock" in installs[0]
    assert "--index-url" in installs[1] and "/tmp/torch.txt" in installs[1]
    assert "--no-build-isolation" in installs[2]
