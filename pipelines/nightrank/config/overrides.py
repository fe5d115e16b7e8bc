"""Overrides of single keys: `--set KEY=VALUE` on a command line, a mapping in Python."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from nightrank.config.keys import annotation_at, is_text, may_be_null
from nightrank.config.values import Section
from nightrank.config.yaml_text import parse
from nightrank.errors import NightrankError, is_utf8, printable

# `["rerank.depth=50"]` or `{"rerank.depth": 50}`.
Overrides = Sequence[str] | Mapping[str, Any]


def apply_overrides(
    kind: type[Section], plain: dict[str, Any], overrides: Overrides
) -> dict[str, Any]:
    """Applies overrides of dotted keys, in order.

    A text is `KEY=VALUE`. The value of a text key is taken as it is typed, `a: b` and `2024` too.
    Quotes around the whole value are removed. An empty value or `null` is null if the key may be
    null. Values of other keys are read as YAML. A mapping's values are taken as they are.

    Args:
        kind: the model of the configuration, which says what a key takes.
        plain: the configuration so far; changed in place.
        overrides: `["rerank.depth=50"]` or `{"rerank.depth": 50}`.

    Raises:
        NightrankError: E_USAGE if an override is not UTF-8, has no `=`, or names a key inside a
            plain value; E_CONFIG if a value is not YAML.
    """
    if isinstance(overrides, str):
        what = f"expected a list or a mapping of overrides, found the text {overrides!r}"
        raise NightrankError("E_USAGE", what, "", f"write [{overrides!r}]")
    if isinstance(overrides, Mapping):
        values = [(str(key), plain_data(value)) for key, value in overrides.items()]
    else:
        values = [_parsed(kind, override) for override in overrides]
    for key, value in values:
        where = origin(overrides, key)
        place: Any = plain
        *parents, last = key.split(".")
        for part in parents:
            if not isinstance(place, dict):
                place = place[_item(place, where, part)]
            else:
                place = place.setdefault(part, {})
        if isinstance(place, dict):
            place[last] = value
        else:
            place[_item(place, where, last)] = value
    return plain


def _parsed(kind: type[Section], override: str) -> tuple[str, Any]:
    """The key and the value of `KEY=VALUE`."""
    if not is_utf8(override):
        what, do = "the value is not valid UTF-8", "rename the file it names"
        raise NightrankError("E_USAGE", what, f"--set {printable(override)}", do)
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise NightrankError(
            "E_USAGE", f"--set {override!r} is not KEY=VALUE", "", "e.g. --set rerank.depth=50"
        )
    return key, _value(kind, key, value)


def _item(place: Any, where: str, part: str) -> int:
    """The index of an item of a list, from 0."""
    if not isinstance(place, list):
        what = f"{where}: {part!r} is inside a plain value"
        raise NightrankError("E_USAGE", what, "", "set the key above it")
    if not part.isdecimal() or int(part) >= len(place):
        what = f"{where}: expected an item's number below {len(place)}, found {part!r}"
        raise NightrankError("E_USAGE", what, "", "e.g. --set rerank.0.depth=50")
    return int(part)


def _value(kind: type[Section], key: str, value: str) -> Any:
    annotation, quoted = annotation_at(kind, key.split(".")), value[:1] in ("'", '"')
    if is_text(annotation):
        if value in ("", "null") and may_be_null(annotation):
            return None
        if not (quoted and len(value) > 1 and value[0] == value[-1]):
            return value
    return parse(f"value: {value}", f"--set {key}")[0]["value"]


def override_of(overrides: Overrides, parts: list[str], in_file: bool) -> str:
    """The override that an error's key comes from; empty where that is the file."""
    wrong = [part for part in parts if not part.isdecimal()]
    for override in overrides:
        key = override.partition("=")[0]
        named = [part for part in key.split(".") if not part.isdecimal()]
        inside = wrong[: len(named)] == named
        if wrong and (inside or (not in_file and named[: len(wrong)] == wrong)):
            return key
    return ""


def origin(overrides: Overrides, key: str) -> str:
    """How errors name an override."""
    return f"overrides[{key!r}]" if isinstance(overrides, Mapping) else f"--set {key}"


def plain_data(value: Any) -> Any:
    """Mappings, sequences and paths as dicts, lists and texts."""
    if isinstance(value, Mapping):
        return {str(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value
