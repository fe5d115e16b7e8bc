"""Writes cpu.lock, gpu.lock and gpu-index.lock beside this file: `make lock`.

Every version is that of py311.txt where that names it, every hash is what PyPI states of a file.
torch is in gpu.lock alone, with the CUDA libraries of its wheel: its build for CPUs comes from
PyTorch's own index, which no hash of PyPI's is of. FAISS for GPUs is in gpu-index.lock alone: its
wheel is built for CUDA 12, torch's for CUDA 13, and two majors in one image are 1.5 GB that no
process of it loads (models and indexes never share a process, nor a pool).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
HEAD = """\
# Made by `make lock`; do not edit. Every file's sha256 as PyPI states it; Python 3.11, x86-64.
# pip install --require-hashes --no-deps --only-binary :all: -r constraints/{name}.lock
"""
WITHOUT_TORCH = """\
# Then torch, by its exact version, for CPUs: see infra/images/Dockerfile.
"""
# Of torch's CUDA libraries some have 13 in their names and others no number; FAISS's have 12.
OF_TORCH_FOR_GPUS = re.compile(r"^(torch|triton|cuda-|nvidia-(?!\S+-cu12==))")
# The extra that a lock file is of.
EXTRAS = {"cpu": "cpu", "gpu": "cpu", "gpu-index": "gpu"}


def compiled(extra: str) -> str:
    """The locked requirements of an extra, one block of lines for each package."""
    command = [str(Path(sys.executable).parent / "uv"), "pip", "compile", "--no-config", "--quiet"]
    command += ["--generate-hashes", "--only-binary", ":all:", "--no-header", "--no-annotate"]
    command += ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"]
    command += ["--constraint", str(HERE / "py311.txt"), "--extra", extra, "--native-tls"]
    # What the build of this package itself needs, which is not isolated in an image.
    command += [str(HERE.parent / "pyproject.toml"), "-"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    done = subprocess.run(
        command, input="setuptools>=77\n", env=plain, check=True, capture_output=True, text=True
    )
    return done.stdout


def without_torch(text: str) -> str:
    """The blocks of all packages but torch and what its GPU build brings."""
    blocks = re.split(r"(?m)^(?=\S)", text)
    return "".join(block for block in blocks if not OF_TORCH_FOR_GPUS.match(block))


def main() -> None:
    """Writes the files."""
    for name, extra in EXTRAS.items():
        text, head = compiled(extra), HEAD.format(name=name)
        if name != "gpu":
            text, head = without_torch(text), head + WITHOUT_TORCH
        (HERE / f"{name}.lock").write_text(head + text)


if __name__ == "__main__":
    main()
