"""JSON that proves itself: records, manifests, plans and log entries hold their own sha256.

The digest is the last member and covers every byte before it. Without it a flipped bit in a number
would be read as another number.
"""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from nightrank.errors import NightrankError

# Of all that is sealed; raised when any of it changes its meaning.
FORMAT = 3
KEY = b',"sha256":"'
SEAL_BYTES = len(KEY) + 64 + len(b'"}')


def seal(plain: dict[str, Any], readable: bool = False) -> bytes:
    """The JSON bytes of an object, its `format` first and its digest last.

    Args:
        plain: plain data without a member `sha256`.
        readable: indented, for people.
    """
    option = orjson.OPT_INDENT_2 if readable else 0
    body = orjson.dumps({"format": FORMAT, **plain}, option=option)
    # A manifest of 32,000 shards is 150 MB: one copy, not three.
    return b"".join((memoryview(body)[:-1], KEY, hashlib.sha256(body).hexdigest().encode(), b'"}'))


def unseal(data: bytes, where: str, do: str) -> dict[str, Any]:
    """The object that `seal` was given, with its `format`.

    Args:
        data: what was stored.
        where: its place, for errors.
        do: what to do about a damaged one.

    Raises:
        NightrankError: E_CORRUPT for bytes that are not what was sealed, E_CONFIG for another
            version's.
    """
    found = hashlib.sha256(memoryview(data)[:-SEAL_BYTES])
    found.update(b"}")
    intact = data[-SEAL_BYTES:] == KEY + found.hexdigest().encode() + b'"}'
    try:
        plain = orjson.loads(data)
    except orjson.JSONDecodeError:
        plain = None
    # What another version wrote may be without a seal; what has one, and a bad one, is damaged.
    told = plain.get("format") if isinstance(plain, dict) else None
    known = told if isinstance(told, int) else 0
    if known not in (0, FORMAT) and (intact or b'"sha256":' not in data[-2 * SEAL_BYTES :]):
        age, instead = "a newer", "use a newer nightrank"
        if known < FORMAT:
            age, instead = "an older", "use that version, or another root"
        raise NightrankError("E_CONFIG", f"written by {age} version", where, instead)
    if not intact or known != FORMAT:
        what = "the file is damaged: its bytes are not those that its own digest is of"
        raise NightrankError("E_CORRUPT", what, where, do)
    del plain["sha256"]
    return dict(plain)
