"""The only module that imports FAISS: its build, its threads, and helpers for index objects.

FAISS is imported on first use, so that importing this module is cheap.
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
Index = Any  # A faiss.Index; FAISS ships no types.

BUILDS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs")


@functools.cache
def library() -> Any:
    """The installed FAISS.

    Raises:
        NightrankError: E_MODEL without a FAISS build, or with two.
    """
    installed = [name for name in BUILDS if _is_installed(name)]
    if len(installed) != 1:
        # All builds install the package `faiss`: of two, one overwrites files of the other.
        what = f"expected exactly one FAISS build, found {' and '.join(installed) or 'none'}"
        do = "pip install 'nightrank[cpu]' (or [gpu]), after uninstalling all of them"
        raise NightrankError("E_MODEL", what, "", do)
    return importlib.import_module("faiss")


def described() -> str:
    """The version and compile options that the library reports, and the GPUs that it sees."""
    faiss = library()
    build = faiss.get_compile_options().strip()
    return f"FAISS {faiss.__version__} ({build}), {gpus()} GPUs"


def gpus() -> int:
    """The number of GPUs that FAISS sees; 0 for a CPU build."""
    return int(library().get_num_gpus())


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def use_threads(threads: int) -> None:
    """Sets the number of FAISS threads of this process, at least 1."""
    library().omp_set_num_threads(max(1, threads))


def threads() -> int:
    """The number of FAISS threads of this process."""
    return int(library().omp_get_max_threads())


def flat_vectors(index: Index) -> Float32 | None:
    """The stored vectors of a Flat index, float32[n, d], without a copy; None for other indexes.

    The array is in the index's memory: keep the index as long as the array.
    """
    faiss = library()
    flat = faiss.downcast_index(index)
    # Only these types: subclasses store the vectors in another layout.
    if type(flat) not in (faiss.IndexFlat, faiss.IndexFlatIP):
        return None
    if not flat.ntotal:
        return np.empty((0, flat.d), np.float32)
    return faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)


def stored_vectors(index: Index) -> Float32 | None:
    """As `flat_vectors`, and also of an index that is refined by a Flat one.

    A refined index needs no second copy of its vectors for exact scores.
    """
    faiss = library()
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexRefine):
        inner = faiss.downcast_index(inner.refine_index)
    return flat_vectors(inner)


def reason(error: Exception) -> str:
    """The message of a FAISS error, without the C++ signature and file in front of it."""
    return re.sub(r"^Error in .*? at \S+?:\d+: ", "", str(error), flags=re.DOTALL)[:200]
