"""Strict YAML; the only module that imports PyYAML.

PyYAML's safe loader silently keeps the last of repeated keys, reads `no` as False and `012` as 10,
and expands aliases without limit. This loader refuses repeated keys, aliases, tags and `${...}`,
reads only the YAML 1.2 core scalars, and limits size and depth. Every error names file, line and
key.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

import yaml

from nightrank.errors import NightrankError

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
# Text without any character that has a meaning in YAML, at any position.
PLAIN_TEXT = re.compile(r"[\w./~][\w./~+-]*(?:(?::|://)[\w./~+-]+)?")
PLAIN = "tag:yaml.org,2002:"


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
        where: the document's name for errors.

    Returns:
        The top mapping, and the line number (from 1) of every dotted key.

    Raises:
        NightrankError: E_CONFIG, naming the line.
    """

    def bad(what: str, line: int) -> NightrankError:
        return NightrankError("E_CONFIG", what, f"{where}, line {line}", "correct the file")

    if len(text.encode()) > MAX_BYTES:
        raise bad(f"expected at most {MAX_BYTES} bytes, found {len(text.encode())}", 1)
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
                    raise bad(f"key '{name}' appears twice", key.start_mark.line + 1)
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
    """A text as YAML on one line that reads back as this text, quoted if necessary."""
    if PLAIN_TEXT.fullmatch(value):
        with contextlib.suppress(NightrankError):
            if parse(f"value: [{value}]", "")[0]["value"] == [value]:
                return value
    return str(yaml.dump(value, default_style='"', allow_unicode=True, width=MAX_BYTES)).rstrip()
