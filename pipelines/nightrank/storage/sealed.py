"""JSON with its own sha256: records, manifests, plans and log entries.

The digest is the last member and covers every byte before it. Without it a number with a flipped
bit would be read as another number.
"""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from nightrank.errors import NightrankError

# The format of all sealed files; raised when the meaning of any of them changes.
FORMAT = 4
KEY = b',"sha256":"'
SEAL_BYTES = len(KEY) + 64 + len(b'"}')


def seal(plain: dict[str, Any], readable: bool = False) -> bytes:
    """The JSON bytes of an object, its `format` first and its digest last.

    Args:
        plain: plain data without a member `sha256`.
        readable: whether to indent it, for people.
    """
    option = orjson.OPT_INDENT_2 if readable else 0
    body = orjson.dumps({"format": FORMAT, **plain}, option=option)
    # A manifest of 32,000 shards is 150 MB: one copy, not three.
    return b"".join((memoryview(body)[:-1], KEY, hashlib.sha256(body).hexdigest().encode(), b'"}'))


def unseal(data: bytes, where: str, do: str) -> dict[str, Any]:
    """The object that was sealed, with its `format`.

    Args:
        data: the stored bytes.
        where: their place, for errors.
        do: what to do about damaged bytes, for errors.

    Raises:
        NightrankError: E_CORRUPT for bytes other than those that were sealed, E_CONFIG for another
            version's.
    """
    digest = hashlib.sha256(memoryview(data)[:-SEAL_BYTES])
    digest.update(b"}")
    intact = data[-SEAL_BYTES:] == KEY + digest.hexdigest().encode() + b'"}'
    try:
        plain = orjson.loads(data)
    except orjson.JSONDecodeError:
        plain = None
    # Another version may have written no seal; a file with a wrong seal is damaged.
    stated = plain.get("format") if isinstance(plain, dict) else None
    version = stated if isinstance(stated, int) else 0
    if version not in (0, FORMAT) and (intact or b'"sha256":' not in data[-2 * SEAL_BYTES :]):
        age, instead = "a newer", "use a newer nightrank"
        if version < FORMAT:
            age, instead = "an older", "use that version, or another root"
        raise NightrankError("E_CONFIG", f"written by {age} version", where, instead)
    if not intact or version != FORMAT:
        what = "the file is damaged: its bytes do not match its own digest"
        raise NightrankError("E_CORRUPT", what, where, do)
    del plain["sha256"]
    return dict(plain)
