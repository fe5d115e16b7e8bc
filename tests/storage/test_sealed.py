from __future__ import annotations

import hashlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightrank.errors import NightrankError
from nightrank.storage.sealed import FORMAT, KEY, seal, unseal

PLAIN = st.dictionaries(st.text(max_size=5), st.integers(0, 9) | st.text(max_size=5), max_size=4)


def refused(data: bytes) -> str:
    with pytest.raises(NightrankError) as caught:
        unseal(data, "there", "do this")
    return caught.value.code


@given(PLAIN, st.booleans())
def test_what_was_sealed_comes_back_and_is_json_for_everybody(
    plain: dict[str, Any], readable: bool
) -> None:
    plain.pop("format", None)
    data = seal(plain, readable)
    assert unseal(data, "there", "") == {"format": FORMAT, **plain}
    read = orjson.loads(data)
    assert read.pop("sha256") == hashlib.sha256(data[: data.rindex(KEY)] + b"}").hexdigest()
    assert read == {"format": FORMAT, **plain}


def test_other_versions_are_told_apart_from_damage() -> None:
    newer = seal({"format": FORMAT + 1, "a": 1})
    assert refused(newer) == "E_CONFIG"
    assert refused(b'{"format": 1, "a": 1}') == "E_CONFIG"
    assert refused(b'{"format": 99}') == "E_CONFIG"
    turned = seal({"a": 1}).replace(b'"format":%d' % FORMAT, b'"format":%d' % (FORMAT - 1))
    assert refused(turned) == "E_CORRUPT"
    for damaged in (
        b"",
        b"{}",
        b"null",
        b"[1]",
        b"\xff",
        b'{"format": %d}' % FORMAT,
        seal({"a": 1}) + b" ",
    ):
        assert refused(damaged) == "E_CORRUPT"
