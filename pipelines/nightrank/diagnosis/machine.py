"""Checks the machine: Python, packages, the settings of Ray, disks, limits, GPUs."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from nightrank.diagnosis.finding import Finding
from nightrank.models.hardware import can_compile, cpu_has_bf16, cuda_devices
from nightrank.retrieval.faiss_library import BUILDS
from nightrank.storage.headroom import existing_folder

GIB = 1 << 30
# For uploads, the node's cache and Ray's session; a model of 4 billion parameters is 8 GiB.
DISK_LEAST, DISK_ENOUGH = 1 * GIB, 20 * GIB
# Ray's object store as `nightrank` starts it has 256 MiB; objects that do not fit go to the disk.
SHM_ENOUGH = 512 << 20
# Each process of Ray, and each worker, opens a few hundred files.
FILES_LEAST, FILES_ENOUGH = 1024, 8192
# The CUDA runtime has several names: nvidia-cuda-runtime-cu12, nvidia-cuda-runtime, cuda-toolkit.
RUNTIME = re.compile(r"(?:nvidia-cuda-runtime|cuda-toolkit)(?:-cu(\d+)|[^;]*?[=>]=\s*(\d+))")
# What Ray appends to its folder for temporary files, and the longest path of a socket.
SOCKET, MOST_SOCKET = "/ray/session_2026-01-31_12-34-56_123456_4194304/sockets/plasma_store", 107
INSTALL = "pip install 'nightrank[cpu]' (or 'nightrank[gpu]'); in a checkout: make install"


def python() -> Iterator[Finding]:
    """The interpreter, compared with the package's requirement."""
    required = SpecifierSet(str(metadata.metadata("nightrank")["Requires-Python"]))
    found = f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPUs"
    if required.contains(platform.python_version(), prereleases=True):
        yield Finding("python", "ok", found)
    else:
        yield Finding("python", "fail", found, f"use a Python {required}")


def packages() -> Iterator[Finding]:
    """The packages that a run needs, compared with the requirements."""
    yield from unmet(metadata.requires("nightrank") or ())
    # In another process: torch, which is loaded in this one, may bring another CUDA major.
    program = "from nightrank.retrieval.faiss_library import described; print(described())"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if child.returncode == 0:
        yield Finding("faiss", "ok", child.stdout.strip())
    else:
        last = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        yield Finding("faiss", "fail", last[:300], f"uninstall {', '.join(BUILDS)}, then {INSTALL}")


def unmet(requirements: Iterable[str]) -> Iterator[Finding]:
    """The requirements that are missing or have another version; extras are not checked."""
    parsed = [Requirement(text) for text in requirements]
    parsed = [r for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]
    met = 0
    for requirement in parsed:
        version = _version(requirement.name)
        if version is None:
            yield Finding("packages", "fail", f"{requirement.name} is missing", INSTALL)
        elif not requirement.specifier.contains(version, prereleases=True):
            found = f"{requirement.name} {version}, expected {requirement.specifier}"
            yield Finding("packages", "fail", found, INSTALL)
        else:
            met += 1
    if met == len(parsed):
        yield Finding("packages", "ok", f"{met} of {met} as required")


def ray_settings(address: str) -> Iterator[Finding]:
    """Authentication, sockets, and variables that make Ray run code from data files.

    Args:
        address: of the cluster in the config or RAY_ADDRESS; empty for one that a run starts.

    Raises:
        NightrankError: E_AUTH for a cluster without authentication on another machine.
    """
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode == "disabled":
        if address:
            from nightrank.runtime.ray_cluster import refuse_open  # Importing Ray takes seconds.

            refuse_open(address)
        found = "RAY_AUTH_MODE=disabled: anyone who can reach Ray's ports can run code here"
        do = "set RAY_AUTH_MODE=token, here and on the cluster"
        yield Finding("ray auth", "warn", found, do)
    else:
        found = f"RAY_AUTH_MODE={mode}" if mode else "token, as this program sets it"
        yield Finding("ray auth", "ok", found)
    sockets = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if not address and len(sockets) + len(SOCKET) > MOST_SOCKET:
        found = f"{sockets} is too long a path for Ray's sockets"
        yield Finding("ray sockets", "fail", found, "set RAY_TMPDIR to a short path, e.g. /tmp")
    for name in sorted(n for n in os.environ if n.startswith("RAY_DATA_AUTOLOAD_")):
        found = f"{name} is set: a data file could run code in a process that reads it"
        yield Finding("ray data", "fail", found, f"unset {name}")


def disks(root: str | None) -> Iterator[Finding]:
    """Free space for temporary files, for a local lake, and in shared memory.

    Args:
        root: the lake's folder; None on S3.
    """
    yield _room("disk", tempfile.gettempdir(), "set TMPDIR to a larger disk")
    if root is not None:
        yield _room("lake disk", existing_folder(root), "free space there, or choose another root")
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        found = f"{_size(free)} free in /dev/shm"
        if free >= SHM_ENOUGH:
            yield Finding("shared memory", "ok", found)
        else:
            do = "give the container more (docker --shm-size, an emptyDir of medium Memory)"
            yield Finding("shared memory", "warn", f"{found}: Ray will use the disk", do)


def open_files() -> Iterator[Finding]:
    """The number of files that a process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinite = soft == resource.RLIM_INFINITY
    found = f"{'no limit' if infinite else soft} for a process"
    if infinite or soft >= FILES_ENOUGH:
        yield Finding("open files", "ok", found)
    else:
        do = f"ulimit -n {FILES_ENOUGH}"
        do += ", by an administrator" if 0 < hard < FILES_ENOUGH else ""
        yield Finding("open files", "fail" if soft < FILES_LEAST else "warn", found, do)


def accelerators() -> Iterator[Finding]:
    """The devices of models and indexes, and whether the installed builds fit them."""
    devices = cuda_devices()
    torch, faiss = cuda_major("torch"), cuda_major(*BUILDS[1:])
    if devices and can_compile():
        yield Finding("gpu", "ok", ", ".join(devices))
    elif devices:
        found = f"{', '.join(devices)}; without a C compiler models take 1.1 to 1.6 times as long"
        yield Finding("gpu", "warn", found, "install gcc and libc6-dev, or set CC")
    elif torch is not None:
        do = "check nvidia-smi and the driver, or install torch for CPUs"
        yield Finding("gpu", "warn", f"torch is built for CUDA {torch}, and sees no GPU", do)
    else:
        bf16 = "with" if cpu_has_bf16() else "without"
        yield Finding("gpu", "ok", f"none; CPU {bf16} native bfloat16")
    if not devices and faiss is not None:
        do = "install faiss-cpu in its place, unless FAISS itself counts GPUs (see `faiss`)"
        yield Finding("faiss gpu", "warn", "the GPU build of FAISS, and torch sees no GPU", do)
    elif devices and faiss is None:
        found = "faiss-cpu: indexes are built and searched on the CPU"
        yield Finding("faiss gpu", "warn", found, "pip install '.[gpu]' to use the GPU for them")
    elif devices and torch is not None and torch != faiss:
        found = f"CUDA {faiss} of FAISS, CUDA {torch} of torch: they run in separate processes"
        yield Finding("faiss gpu", "ok", found)


def cuda_major(*distributions: str) -> int | None:
    """The CUDA major of the first of these distributions that is installed; None for CPU builds.

    It is read from the metadata, since importing two of them could load two majors.
    """
    for name in distributions:
        if version := _version(name):
            return built_for(version, metadata.requires(name) or ())
    return None


def built_for(version: str, requirements: Sequence[str]) -> int | None:
    """The CUDA major in a version (2.13.0+cu130) or in the required libraries."""
    if match := re.search(r"\+cu(\d+)\d$", version):
        return int(match[1])
    for text in requirements:
        if match := RUNTIME.match(text):
            return int(match[1] or match[2])
    return None


def _room(check: str, folder: str, do: str) -> Finding:
    free = shutil.disk_usage(folder).free
    found = f"{_size(free)} free in {folder}"
    if free < DISK_LEAST:
        return Finding(check, "fail", found, do)
    return Finding(check, "ok", found) if free >= DISK_ENOUGH else Finding(check, "warn", found, do)


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
