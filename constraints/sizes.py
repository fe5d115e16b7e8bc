"""Writes sizes.json beside this file, what each image's packages weigh: `make sizes`.

Of the wheels that a lock file names, as they are downloaded and as they are unpacked. An image adds
its base (python:3.11-slim-bookworm) and, for models on GPUs, a C compiler. A registry holds layers
compressed, about as large as the wheels.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import zipfile
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename

HERE = Path(__file__).resolve().parent
PIN = re.compile(r"(?m)^([A-Za-z0-9._-]+)==([^\s;]+)")


def wanted(lock: Path) -> set[tuple[str, str]]:
    """Name and version of every package of a lock file; where torch is left out, its CPU build."""
    pins = {(canonicalize_name(name), version) for name, version in PIN.findall(lock.read_text())}
    if "torch" not in dict(pins):
        pins.add(("torch", f"{dict(PIN.findall((HERE / 'py311.txt').read_text()))['torch']}+cpu"))
    return pins


def weighed(lock: Path, wheels: dict[tuple[str, str], Path]) -> dict[str, int | str]:
    """Bytes of a lock file's wheels, and of what is in them; names the file by its sha256."""
    files = [wheels[pin] for pin in sorted(wanted(lock))]
    unpacked = sum(i.file_size for file in files for i in zipfile.ZipFile(file).infolist())
    return {
        "lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest(),
        "wheels": len(files),
        "download_bytes": sum(file.stat().st_size for file in files),
        "unpacked_bytes": unpacked,
    }


def main(folder: str) -> None:
    """Weighs every lock file by the wheels in a folder."""
    wheels = {}
    for file in Path(folder).glob("*.whl"):
        name, version, _, _ = parse_wheel_filename(file.name)
        wheels[canonicalize_name(name), str(version)] = file
    locks = sorted(HERE.glob("*.lock"))
    if absent := sorted(pin for lock in locks for pin in wanted(lock) if pin not in wheels):
        raise SystemExit(f"{folder} has no wheel of {absent[0]} and {len(absent) - 1} others")
    found = {lock.stem: weighed(lock, wheels) for lock in locks}
    (HERE / "sizes.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
