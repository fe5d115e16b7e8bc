"""Loads a configuration file; every error names file, line and key.

`yaml_text` reads the YAML; the models of `schema` say which keys and values there are. Overrides
are `KEY=VALUE` texts, as `--set` takes them, or a mapping of dotted keys to values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from nightrank.config.keys import closest, did_you_mean, known, meant
from nightrank.config.overrides import (
    Overrides,
    apply_overrides,
    origin,
    override_of,
    plain_data,
)
from nightrank.config.schema import PipelineConfig
from nightrank.config.values import Section
from nightrank.config.yaml_text import parse
from nightrank.errors import NightrankError
from nightrank.process.home import at_home

S = TypeVar("S", bound=Section)
# Kinds of pydantic's errors whose messages use Python's terms.
WORDS = {
    "missing": "this key is required",
    "dict_type": "expected a mapping of keys to values",
    "model_type": "expected a mapping of keys to values",
    "list_type": "expected a list",
    "string_type": "expected text",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "string_too_short": "expected text that is not empty",
}


def load_section(kind: type[S], path: str, overrides: Overrides = ()) -> S:
    """Loads a YAML file as a configuration of one kind.

    Args:
        kind: the model that the file must fit.
        path: a local file.
        overrides: see `apply_overrides`.

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
    return load_text(kind, text, path, overrides)


def load_text(kind: type[S], text: str, path: str, overrides: Overrides = ()) -> S:
    """Reads the text of a YAML file; see `load_section`.

    Args:
        kind: the model that the text must fit.
        text: the document.
        path: the file's name for errors.
        overrides: see `apply_overrides`.

    Raises:
        NightrankError: E_CONFIG with file, line and key; E_USAGE for a bad override.
    """
    plain, lines = parse(text, path)
    return _validated(kind, plain, path, overrides, lines)


def load_mapping(kind: type[S], mapping: Mapping[str, Any], overrides: Overrides = ()) -> S:
    """Validates a configuration that is given as keys and values.

    Args:
        kind: the model that the mapping must fit.
        mapping: as the YAML file would hold it; paths may be `os.PathLike`. It is not changed.
        overrides: see `apply_overrides`.

    Raises:
        NightrankError: E_CONFIG with the key; E_USAGE for a bad override.
    """
    return _validated(kind, plain_data(mapping), "config mapping", overrides, {})


def changed(config: S, overrides: Overrides) -> S:
    """A configuration with overrides applied to it; defaults stay defaults.

    Raises:
        NightrankError: as `load_mapping`.
    """
    if not overrides:
        return config
    plain = config.model_dump(exclude_unset=True)
    # One rerank step may be written without the list: its key is `rerank.depth` then.
    if isinstance(steps := plain.get("rerank"), list) and len(steps) == 1:
        plain["rerank"] = steps[0]
    return _validated(type(config), plain, "config", overrides, {})


def _validated(
    kind: type[S],
    plain: dict[str, Any],
    name: str,
    overrides: Overrides,
    lines: Mapping[str, int],
) -> S:
    """Plain data with overrides as a model; `lines` are the file's, by dotted key."""
    try:
        return kind.model_validate(apply_overrides(kind, plain, overrides))
    except ValidationError as error:
        parts, what = _explained(kind, error)
        where, do = f"{name}, line {_line(lines, parts)}" if lines else name, "correct the config"
        if key := override_of(overrides, parts, ".".join(parts) in lines):
            where, do = origin(overrides, key), "correct the option"
            do = do if where.startswith("--set") else "correct the override"
        raise NightrankError("E_CONFIG", what, where, do) from None


def _explained(kind: type[Section], error: ValidationError) -> tuple[list[str], str]:
    """The parts of the first error's key, and what is wrong with it."""
    errors = error.errors()
    # A misspelt required key is also missing: the misspelling says more.
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    parts = [str(p) for p in first["loc"] if not str(p).startswith(("function-", "literal["))]
    # A key that takes several kinds of values has an error for each kind.
    same = [one for one in errors if [str(p) for p in one["loc"]][: len(parts)] == parts]
    value = f", found {first['input']!r:.80}"
    # Options of the storage may hold a secret: their values are not repeated.
    if first["type"] in ("missing", "extra_forbidden", "value_error") or "storage_options" in parts:
        value = ""
    expectations = list(dict.fromkeys(map(_words, same or [first])))
    others = [words.removeprefix("expected ") for words in expectations[1:]]
    what = " or ".join([expectations[0], *others])
    if first["type"] == "extra_forbidden":
        suggestion = did_you_mean(meant(kind, parts))
        listed = ", ".join(known(kind, parts[:-1]))
        what = f"unknown key{suggestion or ';'} known here: {listed}"
    elif first["type"] == "literal_error":
        expected = (one["ctx"]["expected"] for one in same if one["type"] == "literal_error")
        allowed = re.findall(r"'([^']*)'", " ".join(expected))
        value += did_you_mean(closest(str(first["input"]), allowed))
    elif first["type"] == "string_type" and isinstance(first["input"], int | float):
        value += ": put it in quotes"
    count = len(errors) - max(1, len(same))
    more = f" (and {count} more)" if count else ""
    key = f"{'.'.join(parts)}: " if parts else ""
    if first["type"] == "value_error" and (words := re.match(r"[\w.\[\]]+", what)):
        # A message about a whole section begins with the key within it.
        parts = [*parts, *re.sub(r"\[(\d+)\]", r".\1", words.group()).split(".")]
    return parts, f"{key}{what}{value}{more}"


def _words(error: ErrorDetails) -> str:
    """An error of pydantic as a message for users."""
    what = error["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    what = what.replace("String should match pattern", "expected text that matches")
    return WORDS.get(error["type"], what)


def _line(lines: Mapping[str, int], parts: list[str]) -> int:
    """The line of a key, or of the innermost section around it that the file has."""
    longest = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((lines[name] for name in longest if name in lines), 1)


def load_config(path: str, overrides: Overrides = ()) -> PipelineConfig:
    """Loads a pipeline configuration; see `load_section`."""
    return load_section(PipelineConfig, path, overrides)
