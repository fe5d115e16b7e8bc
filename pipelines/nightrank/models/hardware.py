"""Which device models run on, and which precision it can do: the one place that decides.

Reading the processor's flags needs no torch, and neither does seeing that there is no NVIDIA
driver: a machine without an accelerator imports none (4 s with transformers) to run the built-in
models. Torch is asked only about CUDA.
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
# What oneDNN asks for before it packs weights in bfloat16, natively multiplied or not.
CPU_PACKS_BF16 = frozenset({"avx512bw", "avx512vl", "avx512dq"})
# Linux, and Linux within Windows.
NVIDIA_DRIVERS = ("/dev/nvidiactl", "/dev/dxg")
PRECISIONS = ("auto", "exact", "bf16")


@lru_cache(maxsize=1)
def cpu_flags() -> frozenset[str]:
    """What the processor says that it can do; empty where it does not say."""
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
    """Whether the processor multiplies bfloat16 natively; False where it does not say."""
    return bool(CPU_BF16_FLAGS & cpu_flags())


def cpu_packs_bf16() -> bool:
    """Whether weights in bfloat16 can be packed for the processor."""
    return "avx_ne_convert" in cpu_flags() or cpu_flags() >= CPU_PACKS_BF16


@lru_cache(maxsize=1)
def has_cuda() -> bool:
    """Whether this process sees a CUDA device."""
    if not any(Path(driver).exists() for driver in NVIDIA_DRIVERS):
        return False
    import torch

    return torch.cuda.is_available()


def cuda_devices() -> list[str]:
    """Every CUDA device that this process sees: its name and its memory."""
    if not has_cuda():
        return []
    import torch

    found = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [f"{one.name}, {one.total_memory / (1 << 30):.0f} GiB" for one in found]


def can_compile() -> bool:
    """Whether there is the C compiler that torch.compile needs on GPUs."""
    return bool(os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"))


def choose_device() -> torch.device:
    """The CUDA device this process sees first, else the CPU."""
    import torch

    return torch.device("cuda", 0) if has_cuda() else torch.device("cpu")


def has_bf16() -> bool:
    """Whether the device that `choose_device` names does bfloat16 natively."""
    if has_cuda():
        import torch

        return bool(torch.cuda.get_device_capability(0) >= (8, 0))
    return cpu_has_bf16()


def resolve_precision(precision: str) -> Precision:
    """`auto`, `exact` or `bf16` to the arithmetic that is used.

    Raises:
        NightrankError: E_MODEL, for bf16 on hardware without it or an unknown word.
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
    """Refuses to load a model planned for bf16 where there is none.

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
