"""The only door to FAISS: which build it is, its threads, and what every part of it needs.

FAISS is imported at first use, so that importing this module is cheap.
"""

from __future__ import annotations

import functools
import importlib
import re
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightrank.errors import NightrankError

Float32 = NDArray[np.float32]
Index = Any  # a faiss.Index; FAISS ships no types

BUILDS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs")


@functools.cache
def library() -> Any:
    """The one FAISS that is installed; E_MODEL where there is none, or two."""
    found = [name for name in BUILDS if _is_installed(name)]
    if len(found) != 1:
        # Both builds install one package `faiss`: with two, files of one lie over the other's.
        what = f"exactly one FAISS build is needed, found {' and '.join(found) or 'none'}"
        do = "pip install 'nightrank[cpu]' (or [gpu]), after uninstalling all of them"
        raise NightrankError("E_MODEL", what, "", do)
    return importlib.import_module("faiss")


def described() -> str:
    """The version and how it was built, by the library itself, and the GPUs that it sees."""
    faiss = library()
    build = faiss.get_compile_options().strip()
    return f"FAISS {faiss.__version__} ({build}), {gpus()} GPUs"


def gpus() -> int:
    """GPUs that FAISS sees; 0 of a build for CPUs."""
    return int(library().get_num_gpus())


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def use_threads(threads: int) -> None:
    """Sets how many threads FAISS takes in this process; at least 1."""
    library().omp_set_num_threads(max(1, threads))


def threads() -> int:
    """How many threads FAISS takes in this process."""
    return int(library().omp_get_max_threads())


def flat_vectors(index: Index) -> Float32 | None:
    """Gives the stored vectors of a Flat index, float32[n, d], without a copy; None for others.

    The array lives in the index's memory: keep the index as long as the array.
    """
    faiss = library()
    flat = faiss.downcast_index(index)
    # These types alone: subclasses store the same numbers in another layout.
    if type(flat) not in (faiss.IndexFlat, faiss.IndexFlatIP):
        return None
    if not flat.ntotal:
        return np.empty((0, flat.d), np.float32)
    return faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)


def stored_vectors(index: Index) -> Float32 | None:
    """The vectors as they were added, where the index holds them: Flat, or refined by a Flat one.

    As `flat_vectors` otherwise. A refined index needs no second copy of them to score by.
    """
    faiss = library()
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexRefine):
        inner = faiss.downcast_index(inner.refine_index)
    return flat_vectors(inner)


def reason(error: Exception) -> str:
    """Takes the message out of FAISS's text, which begins with a C++ signature and a place."""
    return re.sub(r"^Error in .*? at \S+?:\d+: ", "", str(error), flags=re.DOTALL)[:200]
