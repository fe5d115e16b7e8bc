"""Writes the reference of all keys, and JSON Schemas for editors, from the models.

`python -m nightrank.config.reference FOLDER` writes a page and a schema for each of `REFERENCES`.
Texts, types, units, ranges and defaults are those of the models; nothing is written here twice.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from nightrank.config import reference_texts
from nightrank.config.schema import PipelineConfig
from nightrank.config.training import TrainConfig
from nightrank.config.values import PLAN, UNIT

Json = dict[str, Any]
TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
}
LIMITS = {
    "minimum": "from",
    "exclusiveMinimum": "above",
    "maximum": "to",
    "exclusiveMaximum": "to below",
}
# The keys of one section that another section has too, with the same meaning.
SHARED = {"queries": "corpus"}
BINARY = {1 << 30: "GiB", 1 << 20: "MiB"}


@dataclass(frozen=True)
class Reference:
    """A configuration that is documented.

    Attributes:
        model: its model.
        title: its name in editors.
        page: name of the Markdown file.
        schema: name of the JSON Schema.
        introduction: beginning of the page.
        changes: what a key of `semantic()` changes, as a heading of that fact.
        smallest: the required keys, with any values.
    """

    model: type[PipelineConfig] | type[TrainConfig]
    title: str
    page: str
    schema: str
    introduction: str
    changes: str
    smallest: Json


_FILE = {"path": "x"}
_COLLECTION = {"name": "x", "corpus": "x", "queries": "x", "qrels": ["x"], "weight": 1.0}
REFERENCES = (
    Reference(
        model=PipelineConfig,
        title="Nightrank experiment",
        page="configuration.md",
        schema="config.schema.json",
        introduction=reference_texts.EXPERIMENT,
        changes="Changes the plan",
        smallest={"name": "x", "root": "x", "corpus": _FILE, "queries": _FILE},
    ),
    Reference(
        model=TrainConfig,
        title="Nightrank training",
        page="training-configuration.md",
        schema="training.schema.json",
        introduction=reference_texts.TRAINING,
        changes="Changes the weights",
        smallest={"output": "x", "collections": [_COLLECTION], "steps": 1, "learning_rate": 1.0},
    ),
)


class _Schema(GenerateJsonSchema):
    """Without titles of keys, which repeat their names, and without defaults of whole sections."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """See pydantic."""
        return False

    def default_schema(self, schema: Any) -> Json:
        """See pydantic."""
        default = schema.get("default")
        values = default if isinstance(default, list) else [default]
        if any(isinstance(value, BaseModel) for value in values):
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)


def json_schema(reference: Reference) -> Json:
    """The JSON Schema (2020-12) of a configuration, with descriptions, units and defaults."""
    schema = reference.model.model_json_schema(schema_generator=_Schema)
    for section in [schema, *schema.get("$defs", {}).values()]:
        section.pop("title", None)
        for key in section["properties"].values():
            if "patternProperties" in key:
                key["additionalProperties"] = False
            for text in [one for one in (section, key) if "description" in one]:
                text["description"] = " ".join(text["description"].split())
    return {"$schema": GenerateJsonSchema.schema_dialect, "title": reference.title, **schema}


def page(reference: Reference, schema: Json) -> str:
    """The page in Markdown; `schema` is that of `json_schema`."""
    semantic = reference.model.model_validate(reference.smallest).semantic()
    parts, sections = [reference.introduction], []
    for name, key in schema["properties"].items():
        required = name in schema["required"]
        if section := _section(schema, key):
            sections.append((name, section, required))
        else:
            parts.append(_entry(name, key, required, (reference.changes, name in semantic)))
    for name, section, required in sections:
        held = semantic.get(name)
        parts += _of_section(schema, name, section, required, (reference.changes, held))
    return "\n".join(parts)


def _of_section(
    schema: Json, name: str, section: Json, required: bool, changes: tuple[str, Any]
) -> Iterator[str]:
    """Heading, introduction and keys of a section, then the sections in it.

    Args:
        schema: the whole schema, which defines the sections.
        name: the section's key.
        section: its schema.
        required: whether a configuration must have it.
        changes: the heading of that fact, and the section's part of `semantic()`.
    """
    yield f"## `{name}`\n"
    yield section["description"] + (" Required.\n" if required else "\n")
    keys, inner = dict(section["properties"]), []
    if other := SHARED.get(name):
        shared = _section(schema, schema["properties"][other])["properties"]
        same = [key for key, value in keys.items() if shared.get(key) == value]
        links = ", ".join(f"[`{key}`](#{other}{key})" for key in same)
        yield f"Takes these keys of `{other}` too: {links}.\n"
        keys = {key: value for key, value in keys.items() if key not in same}
    heading, semantic = changes
    semantic = (semantic or [{}])[0] if isinstance(semantic, list) else semantic or {}
    for key, value in keys.items():
        nested, needed = _section(schema, value), key in section.get("required", [])
        if nested:
            path = f"{name}.{key}.<name>" if "patternProperties" in value else f"{name}.{key}"
            inner.append((path, nested, (heading, semantic.get(key))))
        if not nested or "description" in value:
            yield _entry(f"{name}.{key}", value, needed, (heading, key in semantic))
    for path, nested, part in inner:
        yield from _of_section(schema, path, nested, False, part)


def _section(schema: Json, key: Json) -> Json:
    """The section that a key holds, alone, as an item of a list or under a name; else empty."""
    options = [key, *key.get("anyOf", []), *key.get("patternProperties", {}).values()]
    options += [key["items"]] if "items" in key else []
    for option in options:
        if "$ref" in option:
            return schema["$defs"][option["$ref"].rpartition("/")[2]]
    return {}


def _entry(name: str, key: Json, required: bool, changes: tuple[str, bool]) -> str:
    """A key's heading and description, its type, unit, default, and whether it changes results."""
    facts = {
        "Type": ", ".join([_type(key), *_units(key)]),
        "Default": "none, the key is required" if required else _default(key),
        changes[0]: key.get(PLAN, "yes" if changes[1] else "no"),
    }
    line = " · ".join(f"*{fact}:* {value}" for fact, value in facts.items())
    return f"### `{name}`\n\n{key['description']}\n\n{line}\n"


def _type(key: Json) -> str:
    """What a key takes, in words."""
    if "anyOf" in key:
        options = [option for option in key["anyOf"] if option.get("type") != "null"]
        values = [value for option in options for value in _values(option)]
        others = [_type(option) for option in options if not _values(option)]
        return " or ".join([*([_type({"enum": values})] if values else []), *others])
    if values := _values(key):
        *first, last = [f"`{value}`" for value in values]
        return f"{', '.join(first)} or {last}" if first else last
    if key.get("type") == "array":
        return f"list of {_type(key['items']).replace('number', 'numbers')}"
    if key.get("type") == "object":
        held = key.get("additionalProperties")
        return f"mapping of text to {_type(held)}" if isinstance(held, dict) else "mapping"
    words = TYPES[key["type"]]
    if "pattern" in key:
        words += f" that matches `{key['pattern']}`"
    limits = [f" {word} {_number(key[limit])}" for limit, word in LIMITS.items() if limit in key]
    return words + "".join(limits)


def _values(key: Json) -> list[str]:
    """The only values that a key takes; empty where it takes others."""
    return key["enum"] if "enum" in key else [key["const"]] if "const" in key else []


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _units(key: Json) -> list[str]:
    """The unit of a key's amounts, at most one."""
    options = [key, *key.get("anyOf", []), *([key["items"]] if "items" in key else [])]
    return [option[UNIT] for option in options if UNIT in option][:1]


def _default(key: Json) -> str:
    value = key.get("default")
    if value is None:
        return "none"
    if value in ("", [], {}):
        return "empty"
    text = f"`{value if isinstance(value, str) else json.dumps(value)}`"
    for size, unit in BINARY.items():
        if UNIT in key and isinstance(value, int) and value and value % size == 0:
            return f"{text} ({value // size} {unit})"
    return text


def write(folder: Path) -> None:
    """Writes pages and schemas.

    Args:
        folder: takes the files; created if it does not exist.

    Raises:
        OSError: the folder or a file in it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for reference in REFERENCES:
        schema = json_schema(reference)
        text = json.dumps(schema, indent=1) + "\n"
        (folder / reference.schema).write_text(text, encoding="utf-8")
        (folder / reference.page).write_text(page(reference, schema), encoding="utf-8")


if __name__ == "__main__":
    names = ", ".join(name for each in REFERENCES for name in (each.page, each.schema))
    parser = argparse.ArgumentParser(prog="python -m nightrank.config.reference")
    parser.add_argument("folder", type=Path, help=f"Takes {names}.")
    target = parser.parse_args().folder
    try:
        write(target)
    except OSError as error:
        parser.error(f"cannot write into {target}: {error.strerror}")
