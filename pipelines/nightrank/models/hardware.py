"""Decides which device models run on, and which precision it supports.

The processor's flags and the absence of an NVIDIA driver are read without torch: a machine without
a GPU runs the built-in models without importing it (4 s with transformers). Only CUDA needs torch.
"""

from __future__ import annotations

import os
import platform
import shutil
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from nightrank.errors import NightrankError
from nightrank.models.protocols import Precision

if TYPE_CHECKING:
    import torch

CPU_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # the last is Arm's name
# Linux, and Linux in WSL.
NVIDIA_DRIVERS = ("/dev/nvidiactl", "/dev/dxg")
PRECISIONS = ("auto", "exact", "bf16")


@lru_cache(maxsize=1)
def cpu_flags() -> frozenset[str]:
    """The processor's feature flags; empty where the system does not list them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(flags.split())
    return frozenset()


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 natively; False where that is unknown."""
    return bool(CPU_BF16_FLAGS & cpu_flags())


@lru_cache(maxsize=1)
def has_cuda() -> bool:
    """Whether this process sees a CUDA device."""
    if not any(Path(driver).exists() for driver in NVIDIA_DRIVERS):
        return False
    import torch

    return torch.cuda.is_available()


def cuda_devices() -> list[str]:
    """Name and memory of every CUDA device that this process sees."""
    if not has_cuda():
        return []
    import torch

    devices = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [f"{device.name}, {device.total_memory / (1 << 30):.0f} GiB" for device in devices]


def can_compile() -> bool:
    """Whether the C compiler that torch.compile needs on GPUs is installed."""
    return bool(os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"))


def choose_device() -> torch.device:
    """The first CUDA device that this process sees, else the CPU."""
    import torch

    return torch.device("cuda", 0) if has_cuda() else torch.device("cpu")


def has_bf16() -> bool:
    """Whether the device of `choose_device` supports bfloat16 natively."""
    if has_cuda():
        import torch

        return bool(torch.cuda.get_device_capability(0) >= (8, 0))
    return cpu_has_bf16()


def resolve_precision(precision: str) -> Precision:
    """Resolves `auto`, `exact` or `bf16` to the precision that is used.

    Raises:
        NightrankError: E_MODEL, for bf16 on hardware without it, or an unknown name.
    """
    if precision not in PRECISIONS:
        raise NightrankError(
            "E_MODEL", f"unknown precision {precision!r}", "", f"use one of {', '.join(PRECISIONS)}"
        )
    if precision == "exact":
        return "fp32"
    if has_bf16():
        return "bf16"
    if precision == "bf16":
        raise NightrankError(
            "E_MODEL",
            "precision bf16 asked for, but this machine has no native bfloat16",
            "",
            "use precision auto or exact, or a machine with it (AVX512-BF16, AMX or a GPU)",
        )
    return "fp32"


def require_precision(precision: Precision, model: str) -> None:
    """Refuses to load a model planned for bf16 on hardware without it.

    Raises:
        NightrankError: E_MODEL.
    """
    if precision == "bf16" and not has_bf16():
        raise NightrankError(
            "E_MODEL",
            "planned in bf16, but this worker has no native bfloat16",
            f"{model}, node {platform.node()}",
            "use nodes with it (AVX512-BF16, AMX or a GPU) for models, or set precision: exact",
        )
