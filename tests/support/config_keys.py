"""Every key that a config can hold, found by walking its model."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nightrank.config.schema import PipelineConfig


def keys(
    model: type[BaseModel] = PipelineConfig, prefix: str = ""
) -> Iterator[tuple[str, FieldInfo]]:
    """Dotted names of all leaves; `*` stands for an item of a list and a name of a mapping."""
    for name, field in model.model_fields.items():
        for inside, path in _sections(field.annotation):
            if inside is None:
                yield prefix + name + path, field
            else:
                yield from keys(inside, f"{prefix}{name}{path}.")


def _sections(annotation: Any) -> list[tuple[type[BaseModel] | None, str]]:
    """The section that an annotation is, or holds, with the way to it; (None, "") for a value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [(annotation, "")]
    held = {list: ".*", dict: ".*"}.get(typing.get_origin(annotation), "")
    found = [
        (section, held + path)
        for part in typing.get_args(annotation)
        for section, path in _sections(part)
        if section is not None
    ]
    return found[:1] or [(None, "")]
