"""Identity by content: a stable digest of plain values.

Only values with one canonical form are accepted. A permissive `str(value)` fallback would let an
unstable value (a set, an object's repr) silently change an identity, and recompute or mix data.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import orjson

SHORT = 16


def canonical(value: Any) -> bytes:
    """Canonical JSON of a value: sorted keys, no white space, UTF-8.

    Raises:
        TypeError: for a value without one canonical form, naming its place.
    """
    _check(value, "value")
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest(value: Any) -> str:
    """The full sha256 of a value's canonical form, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def fingerprint(value: Any) -> str:
    """The first 16 hex digits (64 bits) of `digest`, for folder names."""
    return digest(value)[:SHORT]


def _check(value: Any, where: str) -> None:
    if value is None or isinstance(value, str | bool | int):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where}: {value} has no canonical JSON; use a finite number")
        return
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where}: key {key!r} is not a string; convert it first")
            _check(item, f"{where}.{key}")
        return
    if isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check(item, f"{where}[{i}]")
        return
    kind = type(value).__name__
    raise TypeError(f"{where}: a {kind} has no canonical form; convert it to plain data first")
