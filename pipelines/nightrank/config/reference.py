"""Writes the reference of all keys, and a JSON Schema for editors, from the models.

`python -m nightrank.config.reference FOLDER` writes `configuration.md` and `config.schema.json`.
Texts, types, units, ranges and defaults are those of the models; nothing is written here twice.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from nightrank.config.schema import PipelineConfig
from nightrank.config.values import PLAN, UNIT

Json = dict[str, Any]
PAGE, SCHEMA = "configuration.md", "config.schema.json"
INTRODUCTION = """\
# Configuration

<!-- Written by `make reference` from pipelines/nightrank/config. Do not edit. -->

One YAML file is one experiment. This is a complete one; every other key has a default:

```yaml
# yaml-language-server: $schema=config.schema.json
name: my-experiment
root: ./lake
corpus: {path: data/corpus.jsonl}
queries: {path: data/queries.jsonl}
```

- **Editors.** The first line makes editors with the YAML language server (VS Code, Neovim, and
  others) complete, explain and check keys. It takes the path or the URL of
  [config.schema.json](config.schema.json). `python -m nightrank.config.reference FOLDER` writes
  this file, and this page, for the installed version.
- **Checks.** Unknown keys, wrong types and values out of range end the command with exit code 2 and
  one line that names the file, the line and the key. YAML is read strictly: repeated keys, aliases,
  tags and `${...}` are errors, and only `true` and `false` are booleans.
- **Overrides.** `--set KEY=VALUE` sets a key for one command, e.g. `--set rerank.depth=50` or
  `--set rerank.0.depth=50` for the first of several steps. The value of a text key is taken as it
  is typed; other values are read as YAML.
- **Paths** are relative to the working directory. `~` is the home directory.
- **Changes the plan.** A plan is what a run computes. A key that changes the plan may change
  results: the next run computes again what depends on the key, and reuses the rest. Any other key
  can be changed between two runs of one plan; the second resumes the first.
"""
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


def json_schema(model: type[BaseModel], title: str) -> Json:
    """The JSON Schema (2020-12) of a model, with descriptions, units and defaults.

    Args:
        model: a configuration.
        title: what editors call it.
    """
    schema = model.model_json_schema(schema_generator=_Schema)
    for section in [schema, *schema.get("$defs", {}).values()]:
        section.pop("title", None)
        for key in section["properties"].values():
            if "patternProperties" in key:
                key["additionalProperties"] = False
            for text in [one for one in (section, key) if "description" in one]:
                text["description"] = " ".join(text["description"].split())
    return {"$schema": GenerateJsonSchema.schema_dialect, "title": title, **schema}


def page(schema: Json, plan: Json) -> str:
    """The reference in Markdown.

    Args:
        schema: see `json_schema`.
        plan: the part of a configuration that enters a plan's identity, as plain data.
    """
    parts = [INTRODUCTION, "## Keys of the experiment\n"]
    sections = []
    for name, key in schema["properties"].items():
        if section := _section(schema, key):
            sections.append((name, section))
        else:
            parts.append(_entry(name, key, name in schema["required"], name in plan))
    for name, section in sections:
        parts += _of_section(schema, name, section, plan.get(name))
    return "\n".join(parts)


def _of_section(schema: Json, name: str, section: Json, plan: Any) -> Iterator[str]:
    """Heading, introduction and keys of a section, then the sections in it."""
    yield f"## `{name}`\n"
    yield section["description"] + "\n"
    keys, inner = dict(section["properties"]), []
    if other := SHARED.get(name):
        shared = _section(schema, schema["properties"][other])["properties"]
        same = [key for key, value in keys.items() if shared.get(key) == value]
        links = ", ".join(f"[`{key}`](#{other}{key})" for key in same)
        yield f"Takes these keys of `{other}` too: {links}.\n"
        keys = {key: value for key, value in keys.items() if key not in same}
    dumped = plan[0] if isinstance(plan, list) else plan or {}
    for key, value in keys.items():
        nested, required = _section(schema, value), key in section.get("required", [])
        if nested:
            inner.append((f"{name}.{key}", nested, dumped.get(key), "patternProperties" in value))
        if not nested or "description" in value:
            yield _entry(f"{name}.{key}", value, required, key in dumped)
    for key, nested, part, named in inner:
        yield from _of_section(schema, f"{key}.<name>" if named else key, nested, part)


def _section(schema: Json, key: Json) -> Json:
    """The section that a key holds, alone, as an item of a list or under a name; else empty."""
    options = [key, *key.get("anyOf", []), *key.get("patternProperties", {}).values()]
    for option in options:
        if "$ref" in option:
            return schema["$defs"][option["$ref"].rpartition("/")[2]]
    return {}


def _entry(name: str, key: Json, required: bool, planned: bool) -> str:
    """A key's heading, its type, unit, default and effect on the plan, and its description."""
    facts = {
        "Type": ", ".join([_type(key), *_units(key)]),
        "Default": "none, the key is required" if required else _default(key),
        "Changes the plan": key.get(PLAN, "yes" if planned else "no"),
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
    """Writes both files of the configuration of experiments.

    Args:
        folder: takes `configuration.md` and `config.schema.json`; created if it does not exist.

    Raises:
        OSError: the folder or a file in it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    schema = json_schema(PipelineConfig, "Nightrank experiment")
    path = {"path": "x"}
    smallest = {"name": "x", "root": "x", "corpus": path, "queries": path}
    plan = PipelineConfig.model_validate(smallest).semantic()
    (folder / SCHEMA).write_text(json.dumps(schema, indent=1) + "\n", encoding="utf-8")
    (folder / PAGE).write_text(page(schema, plan), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m nightrank.config.reference")
    parser.add_argument("folder", type=Path, help=f"Takes {PAGE} and {SCHEMA}.")
    target = parser.parse_args().folder
    try:
        write(target)
    except OSError as error:
        parser.error(f"cannot write into {target}: {error.strerror}")
