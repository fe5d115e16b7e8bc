"""Reads a configuration file strictly; the only door to YAML.

PyYAML's safe loader still lets a second key win silently, reads `no` as False and `012` as 10, and
expands aliases without bound. This loader refuses duplicate keys, aliases, tags and `${...}`, reads
only the YAML 1.2 core scalars, and caps size and depth. Every error names file, line and key.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from nightrank import config
from nightrank.config import PipelineConfig
from nightrank.config_running import Section
from nightrank.errors import NightrankError, is_utf8, printable

S = TypeVar("S", bound=Section)
MAX_BYTES = 1 << 20
MAX_DEPTH = 20
# Without characters that YAML gives a meaning to, whatever their place.
PLAIN_TEXT = re.compile(r"[\w./~][\w./~+-]*(?:(?::|://)[\w./~+-]+)?")
PLAIN = "tag:yaml.org,2002:"
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


class _CoreLoader(yaml.SafeLoader):
    """SafeLoader that resolves only null, true/false, decimal integers and floats."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", list("-+0123456789")),
    (
        "float",
        r"^[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$",
        list("-+.0123456789"),
    ),
):
    _CoreLoader.add_implicit_resolver(PLAIN + _tag, re.compile(_pattern), _first)


def parse(text: str, where: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Parses strict YAML.

    Args:
        text: the document.
        where: what to call it in errors.

    Returns:
        The top mapping, and the line number (from 1) of every dotted key.

    Raises:
        NightrankError: E_CONFIG, naming the line.
    """

    def bad(what: str, line: int) -> NightrankError:
        return NightrankError("E_CONFIG", what, f"{where}, line {line}", "correct the file")

    if len(text.encode()) > MAX_BYTES:
        raise bad(f"a config holds at most {MAX_BYTES} bytes, found {len(text.encode())}", 1)
    lines: dict[str, int] = {}

    def check(node: yaml.Node, path: str, depth: int) -> None:
        line = node.start_mark.line + 1
        if depth > MAX_DEPTH:
            raise bad(f"nested deeper than {MAX_DEPTH} levels", line)
        if path:
            lines[path] = line
        if not node.tag.startswith(PLAIN) or node.tag[len(PLAIN) :] not in (
            *("map", "seq", "str", "null", "bool", "int", "float"),
        ):
            raise bad(f"tag {node.tag} is not allowed", line)
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                name = str(key.value)
                if name in seen:
                    raise bad(f"key '{name}' stands twice", key.start_mark.line + 1)
                seen.add(name)
                check(key, "", depth + 1)
                check(value, f"{path}.{name}" if path else name, depth + 1)
        elif isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                check(item, f"{path}.{i}", depth + 1)
        elif "${" in node.value:
            raise bad("${...} is not expanded here", line)
        elif "\0" in node.value:
            raise bad("NUL characters are not allowed", line)

    try:
        depth = 0
        for event in yaml.parse(text, Loader=_CoreLoader):
            mark = event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise bad("aliases and anchors are not allowed", mark)
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise bad(f"nested deeper than {MAX_DEPTH} levels", mark)
        node = yaml.compose(text, Loader=_CoreLoader)
        if not isinstance(node, yaml.MappingNode):
            raise bad("expected a mapping of keys to values", 1)
        check(node, "", 0)
        return _CoreLoader(text).construct_document(node), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "unreadable characters"
        raise bad(f"not valid YAML: {problem}", mark.line + 1 if mark else 1) from None


def written(value: str) -> str:
    """A text as YAML that reads back as this text, on one line and quoted where that is needed."""
    if PLAIN_TEXT.fullmatch(value):
        with contextlib.suppress(NightrankError):
            if parse(f"value: [{value}]", "")[0]["value"] == [value]:
                return value
    return str(yaml.dump(value, default_style='"', allow_unicode=True, width=MAX_BYTES)).rstrip()


def apply_sets(plain: dict[str, Any], sets: Sequence[str]) -> dict[str, Any]:
    """Applies `--set a.b=value` overrides; the value is read as YAML.

    Raises:
        NightrankError: E_USAGE where an override is no UTF-8, has no `=` or its path crosses a
            plain value.
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
        where: Any = plain
        *parents, last = key.split(".")
        for part in parents:
            if isinstance(where, list) and part.isdigit() and int(part) < len(where):
                where = where[int(part)]
                continue
            if not isinstance(where, dict):
                raise NightrankError("E_USAGE", f"--set {key}: '{part}' is inside a plain value")
            where = where.setdefault(part, {})
        if not isinstance(where, dict):
            raise NightrankError("E_USAGE", f"--set {key}: '{last}' is inside a plain value")
        where[last] = parse(f"value: {value}", f"--set {key}")[0]["value"]
    return plain


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
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
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
        return kind.model_validate(apply_sets(plain, sets))
    except ValidationError as error:
        first = error.errors()[0]
        parts = [str(p) for p in first["loc"] if not str(p).startswith(("function-", "literal["))]
        key = ".".join(parts)
        found = f", found {first['input']!r:.80}"
        # Nobody looks for a secret in an error: what stands in the options is not repeated.
        if first["type"] in ("missing", "extra_forbidden") or key.startswith("storage_options"):
            found = ""
        what = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
        what = WORDS.get(first["type"], what)
        if first["type"] == "extra_forbidden":
            what = f"unknown key; known here: {', '.join(_known(kind, first['loc'][:-1]))}"
        if first["type"] in ("value_error",):
            found = ""
        line = _line(lines, key, what)
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        text = f"{key}: {what}{found}{more}" if key else f"{what}{more}"
        raise NightrankError(
            "E_CONFIG", text, f"{path}, line {line}", "correct the config"
        ) from None


def _line(lines: dict[str, int], key: str, what: str) -> int:
    """The line of a key, or of the key that a message about a whole section begins with."""
    named = re.match(r"[\w.\[\]]+", what)
    inner = re.sub(r"\[(\d+)\]", r".\1", named.group()) if named else ""
    parts = f"{key}.{inner}".strip(".").split(".")
    longest = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((lines[name] for name in longest if name in lines), 1)


def _known(kind: Any, loc: Sequence[Any]) -> list[str]:
    """The keys that the section at `loc` knows."""
    for part in loc:
        if isinstance(part, int):
            continue
        annotation = kind.model_fields[part].annotation
        found = re.search(r"nightrank\.config\.(\w+)", str(annotation))
        kind = getattr(config, found.group(1)) if found else kind
    return list(kind.model_fields)


def load_config(path: str, sets: Sequence[str] = ()) -> PipelineConfig:
    """Loads a pipeline configuration; see `load_section`."""
    return load_section(PipelineConfig, path, sets)
