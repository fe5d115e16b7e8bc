"""The machine and what is installed: Python, packages, Ray's settings, disks, limits, GPUs."""

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
# Where uploads, the node's cache and Ray's session go; a model of 4 billion parameters is 8 GiB.
DISK_LEAST, DISK_ENOUGH = 1 * GIB, 20 * GIB
# Ray's object store as `nightrank` starts it is 256 MiB; what does not fit goes to the disk.
SHM_ENOUGH = 512 << 20
# Ray's own processes and a worker for each CPU hold a few hundred each.
FILES_LEAST, FILES_ENOUGH = 1024, 8192
# The runtime goes by several names: nvidia-cuda-runtime-cu12, nvidia-cuda-runtime, cuda-toolkit.
RUNTIME = re.compile(r"(?:nvidia-cuda-runtime|cuda-toolkit)(?:-cu(\d+)|[^;]*?[=>]=\s*(\d+))")
# What Ray puts behind its folder for temporary files, and what a socket's path may have in all.
SOCKET, MOST_SOCKET = "/ray/session_2026-01-31_12-34-56_123456_4194304/sockets/plasma_store", 107
INSTALL = "pip install 'nightrank[cpu]' (or 'nightrank[gpu]'); in a checkout: make install"


def python() -> Iterator[Finding]:
    """The interpreter against what the package asks for."""
    wanted = SpecifierSet(str(metadata.metadata("nightrank")["Requires-Python"]))
    found = f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPUs"
    if wanted.contains(platform.python_version(), prereleases=True):
        yield Finding("python", "ok", found)
    else:
        yield Finding("python", "fail", found, f"use a Python {wanted}")


def packages() -> Iterator[Finding]:
    """Every package that a run needs, against its floor."""
    yield from unmet(metadata.requires("nightrank") or ())
    # In a process of its own: torch, which is loaded here, may bring another CUDA major.
    program = "from nightrank.retrieval.faiss_library import described; print(described())"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if child.returncode == 0:
        yield Finding("faiss", "ok", child.stdout.strip())
    else:
        last = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        yield Finding("faiss", "fail", last[:300], f"uninstall {', '.join(BUILDS)}, then {INSTALL}")


def unmet(requirements: Iterable[str]) -> Iterator[Finding]:
    """What of these requirements is missing or of another version; extras are left out."""
    wanted = [Requirement(text) for text in requirements]
    wanted = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    good = 0
    for one in wanted:
        version = _version(one.name)
        if version is None:
            yield Finding("packages", "fail", f"{one.name} is missing", INSTALL)
        elif not one.specifier.contains(version, prereleases=True):
            found = f"{one.name} {version}, wanted {one.specifier}"
            yield Finding("packages", "fail", found, INSTALL)
        else:
            good += 1
    if good == len(wanted):
        yield Finding("packages", "ok", f"{good} of {good} as required")


def ray_settings(address: str) -> Iterator[Finding]:
    """Authentication, sockets, and variables that make Ray run code out of data files.

    Args:
        address: of the cluster that the config or RAY_ADDRESS names; empty for one of its own.

    Raises:
        NightrankError: E_AUTH, for an open cluster on another machine.
    """
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode == "disabled":
        if address:
            from nightrank.runtime.ray_cluster import refuse_open  # Ray takes seconds.

            refuse_open(address)
        found = "RAY_AUTH_MODE=disabled: who reaches Ray's ports runs code here"
        do = "set RAY_AUTH_MODE=token, here and on the cluster"
        yield Finding("ray auth", "warn", found, do)
    else:
        said = f"RAY_AUTH_MODE={mode}" if mode else "token, as this program sets it"
        yield Finding("ray auth", "ok", said)
    sockets = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if not address and len(sockets) + len(SOCKET) > MOST_SOCKET:
        found = f"{sockets} is too long a path for Ray's sockets"
        yield Finding("ray sockets", "fail", found, "set RAY_TMPDIR to a short path, e.g. /tmp")
    for name in sorted(n for n in os.environ if n.startswith("RAY_DATA_AUTOLOAD_")):
        found = f"{name} is set: a data file could run code in whoever reads it"
        yield Finding("ray data", "fail", found, f"unset {name}")


def disks(root: str | None) -> Iterator[Finding]:
    """Room for temporary files, for the lake where it is local, and in shared memory.

    Args:
        root: the lake's folder; None where it is not on a disk.
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
    """How many files a process may have open."""
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
    """What models and indexes run on, and whether the installed builds fit it."""
    devices = cuda_devices()
    torch, faiss = cuda_major("torch"), cuda_major(*BUILDS[1:])
    if devices and can_compile():
        yield Finding("gpu", "ok", ", ".join(devices))
    elif devices:
        found = f"{', '.join(devices)}; without a C compiler models take 1.1 to 1.6 times as long"
        yield Finding("gpu", "warn", found, "install gcc and libc6-dev, or set CC")
    elif torch is not None:
        do = "look at nvidia-smi and the driver, or install torch for CPUs"
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
        found = f"CUDA {faiss} of FAISS, CUDA {torch} of torch: they run in processes of their own"
        yield Finding("faiss gpu", "ok", found)


def cuda_major(*distributions: str) -> int | None:
    """The CUDA major that the first installed of these is built for; None where for none.

    By what is written in its metadata: to import two of them would load two majors at once.
    """
    for name in distributions:
        if version := _version(name):
            return built_for(version, metadata.requires(name) or ())
    return None


def built_for(version: str, requirements: Sequence[str]) -> int | None:
    """The CUDA major in a version (2.13.0+cu130) or in the libraries it asks for."""
    if told := re.search(r"\+cu(\d+)\d$", version):
        return int(told[1])
    for text in requirements:
        if told := RUNTIME.match(text):
            return int(told[1] or told[2])
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
