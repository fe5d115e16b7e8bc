"""Loads a configuration file; every error names file, line and key.

The YAML is that of `config_yaml`; keys and values are those of the models in `config`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from nightrank.config.keys import (
    annotation_at,
    closest,
    did_you_mean,
    is_text,
    known,
    may_be_null,
    meant,
)
from nightrank.config.running import Section
from nightrank.config.schema import PipelineConfig
from nightrank.config.yaml_text import parse
from nightrank.errors import NightrankError, is_utf8, printable
from nightrank.process.home import at_home

S = TypeVar("S", bound=Section)
# pydantic's kinds of errors whose own words speak of Python.
WORDS = {
    "missing": "this key is required",
    "dict_type": "expected a mapping of keys to values",
    "model_type": "expected a mapping of keys to values",
    "list_type": "expected a list",
    "string_type": "expected text",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "string_too_short": "expected text, not an empty one",
}


def load_section(kind: type[S], path: str, sets: Sequence[str] = ()) -> S:
    """Loads a YAML file as a configuration of one kind.

    Args:
        kind: the model that the file must fit.
        path: a local file.
        sets: overrides, see `apply_sets`.

    Raises:
        NightrankError: E_CONFIG with file, line and key; E_USAGE for a bad override.
    """
    try:
        text = Path(at_home(path)).read_text(encoding="utf-8")
    except ValueError as error:
        if not isinstance(error, UnicodeDecodeError):
            raise NightrankError("E_CONFIG", str(error), path) from None
        raise NightrankError("E_CONFIG", "not UTF-8 text", path, "save the file as UTF-8") from None
    except OSError as error:
        do = "give the path of a YAML config; `nightrank init` writes one"
        raise NightrankError(
            "E_CONFIG", f"cannot read config: {error.strerror}", path, do
        ) from None
    return load_text(kind, text, path, sets)


def load_text(kind: type[S], text: str, path: str, sets: Sequence[str] = ()) -> S:
    """Reads the text of a YAML file; see `load_section`.

    Args:
        kind: the model that the text must fit.
        text: the document.
        path: what errors call it.
        sets: overrides, see `apply_sets`.

    Raises:
        NightrankError: E_CONFIG with file, line and key; E_USAGE for a bad override.
    """
    plain, lines = parse(text, path)
    try:
        return kind.model_validate(apply_sets(kind, plain, sets))
    except ValidationError as error:
        parts, what = _explained(kind, error)
        where, do = f"{path}, line {_line(lines, parts)}", "correct the config"
        if setting := _setting(sets, parts, ".".join(parts) in lines):
            where, do = f"--set {setting}", "correct the option"
        raise NightrankError("E_CONFIG", what, where, do) from None


def _setting(sets: Sequence[str], parts: list[str], in_file: bool) -> str:
    """The override that an error's key comes from; empty where that is the file."""
    wrong = [part for part in parts if not part.isdecimal()]
    for override in sets:
        key = override.partition("=")[0]
        named = [part for part in key.split(".") if not part.isdecimal()]
        inside = wrong[: len(named)] == named
        if wrong and (inside or (not in_file and named[: len(wrong)] == wrong)):
            return key
    return ""


def _explained(kind: type[Section], error: ValidationError) -> tuple[list[str], str]:
    """The key of the first error, in parts, and the key with what is wrong in our words."""
    errors = error.errors()
    # A key that is misspelt is also missing: the misspelling says more.
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    parts = [str(p) for p in first["loc"] if not str(p).startswith(("function-", "literal["))]
    # Of a key that takes several kinds of values there is an error for each kind.
    same = [one for one in errors if [str(p) for p in one["loc"]][: len(parts)] == parts]
    found = f", found {first['input']!r:.80}"
    # Nobody looks for a secret in an error: what the options hold is not repeated.
    if first["type"] in ("missing", "extra_forbidden", "value_error") or "storage_options" in parts:
        found = ""
    wants = dict.fromkeys(map(_words, same or [first]))
    what = " or ".join([next(iter(wants)), *(w.removeprefix("expected ") for w in [*wants][1:])])
    if first["type"] == "extra_forbidden":
        suggestion = did_you_mean(meant(kind, parts))
        listed = ", ".join(known(kind, parts[:-1]))
        what = f"unknown key{suggestion or ';'} known here: {listed}"
    elif first["type"] == "literal_error":
        expected = (one["ctx"]["expected"] for one in same if one["type"] == "literal_error")
        allowed = re.findall(r"'([^']*)'", " ".join(expected))
        found += did_you_mean(closest(str(first["input"]), allowed))
    elif first["type"] == "string_type" and isinstance(first["input"], int | float):
        found += ": put it in quotes"
    others = len(errors) - max(1, len(same))
    more = f" (and {others} more)" if others else ""
    key = f"{'.'.join(parts)}: " if parts else ""
    if first["type"] == "value_error" and (words := re.match(r"[\w.\[\]]+", what)):
        # A message about a whole section begins with the key within it.
        parts = [*parts, *re.sub(r"\[(\d+)\]", r".\1", words.group()).split(".")]
    return parts, f"{key}{what}{found}{more}"


def _words(error: ErrorDetails) -> str:
    """What pydantic says, in our words."""
    what = error["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    what = what.replace("String should match pattern", "expected text that matches")
    return WORDS.get(error["type"], what)


def _line(lines: dict[str, int], parts: list[str]) -> int:
    """The line of the longest part of a key that the file has."""
    longest = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((lines[name] for name in longest if name in lines), 1)


def load_config(path: str, sets: Sequence[str] = ()) -> PipelineConfig:
    """Loads a pipeline configuration; see `load_section`."""
    return load_section(PipelineConfig, path, sets)


def apply_sets(kind: type[Section], plain: dict[str, Any], sets: Sequence[str]) -> dict[str, Any]:
    """Applies `--set a.b=value` overrides.

    A key that takes text takes it as it is typed, `a: b` and `2024` too; what is wholly in quotes
    is read without them, and nothing or `null` is null where the key may be null. The value of any
    other key is read as YAML.

    Args:
        kind: the model of the configuration, which says what a key takes.
        plain: the configuration so far; changed in place.
        sets: the overrides.

    Raises:
        NightrankError: E_USAGE where an override is no UTF-8, has no `=` or its path crosses a
            plain value; E_CONFIG for a value that is no YAML.
    """
    for override in sets:
        if not is_utf8(override):
            what, do = "the value is not valid UTF-8", "rename what it names"
            raise NightrankError("E_USAGE", what, f"--set {printable(override)}", do)
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise NightrankError(
                "E_USAGE", f"--set {override!r} is not KEY=VALUE", "", "e.g. --set rerank.depth=50"
            )
        place: Any = plain
        *parents, last = key.split(".")
        for part in parents:
            if not isinstance(place, dict):
                place = place[_item(place, key, part)]
            else:
                place = place.setdefault(part, {})
        found = _value(kind, key, value)
        if isinstance(place, dict):
            place[last] = found
        else:
            place[_item(place, key, last)] = found
    return plain


def _item(place: Any, key: str, part: str) -> int:
    """The number of an item of a list."""
    if not isinstance(place, list):
        what = f"--set {key}: {part!r} is inside a plain value"
        raise NightrankError("E_USAGE", what, "", "set the key above it")
    if not part.isdecimal() or int(part) >= len(place):
        what = f"--set {key}: expected an item's number below {len(place)}, found {part!r}"
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
