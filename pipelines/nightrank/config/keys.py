"""Answers questions about keys: which exist, what a key takes, which one a misspelling means."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

# Least ratio of difflib, 0 to 1: `depht` and `depth` have 0.8, `retrieve` and `rerank` 0.57.
CLOSE = 0.6
SHOWN = 3


def annotation_at(kind: type[BaseModel], parts: Sequence[str]) -> Any:
    """The annotation of the value at a dotted key, None where there is no such key.

    Args:
        kind: the model of the whole configuration.
        parts: the key's parts; an item of a list is its number, or is left out.
    """
    place: Any = kind
    for part in parts:
        section = _section(place)
        if section is not None and part in section.model_fields:
            place = section.model_fields[part].annotation
            continue
        many = next((p for p in _options(place) if typing.get_origin(p) in (list, dict)), None)
        if many is None or (typing.get_origin(many) is list and not part.isdecimal()):
            return None
        place = typing.get_args(many)[-1]
    return place


def is_text(annotation: Any) -> bool:
    """Whether a key takes text alone, or text and null."""
    kinds = [part for part in _options(annotation) if part is not type(None)]
    return bool(kinds) and all(part is str for part in kinds)


def may_be_null(annotation: Any) -> bool:
    """Whether a key can be set to null."""
    return type(None) in _options(annotation)


def known(kind: type[BaseModel], parts: Sequence[Any]) -> list[str]:
    """The keys of the section at a key, in the order of the model; empty for a plain value."""
    section = _section(annotation_at(kind, [str(part) for part in parts]))
    return list(section.model_fields) if section else []


def meant(kind: type[BaseModel], parts: Sequence[Any]) -> list[str]:
    """Keys that an unknown key may be a misspelling of, the most similar first.

    Args:
        kind: the model of the whole configuration.
        parts: parts of the unknown key.

    Returns:
        Similar keys of the same section, at most three. If there are none, dotted keys of other
        sections with this name or a similar one.
    """
    *parents, last = (str(part) for part in parts)
    if near := closest(last, known(kind, parents)):
        return near
    everywhere = list(_dotted(kind))
    same = [key for key in everywhere if key.rpartition(".")[2] == last.casefold()]
    if same:
        return same[:SHOWN]
    names = closest(last, {key.rpartition(".")[2] for key in everywhere})[:1]
    return [key for key in everywhere if key.rpartition(".")[2] in names][:SHOWN]


def closest(word: str, words: typing.Iterable[str]) -> list[str]:
    """The words most similar to one, at most three, the most similar first."""
    folded = {other.casefold(): other for other in words}
    near = difflib.get_close_matches(word.casefold(), folded, n=SHOWN, cutoff=CLOSE)
    return [folded[name] for name in near]


def did_you_mean(words: Sequence[str]) -> str:
    """A clause for the end of an error's message; empty without a suggestion."""
    return f"; did you mean {' or '.join(map(repr, words))}?" if words else ""


def unknown_names(unknown: typing.Iterable[str], names: typing.Iterable[str]) -> str:
    """The message about names that are not among the known ones."""
    listed, names = sorted(unknown), sorted(names)
    near = [name for word in listed for name in closest(word, names)[:1]]
    return f"unknown: {', '.join(map(repr, listed))}{did_you_mean(near) or ';'} known: {names}"


def _dotted(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted keys of all values, without the numbers of items and the names in mappings."""
    for name, field in kind.model_fields.items():
        section = _section(field.annotation)
        yield prefix + name
        if section is not None:
            yield from _dotted(section, f"{prefix}{name}.")


def _options(annotation: Any) -> list[Any]:
    """What an annotation allows: the parts of a union, without pydantic's metadata."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _options(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [part for each in typing.get_args(annotation) for part in _options(each)]
    return [annotation]


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section of an annotation, also as the items of a list or a mapping."""
    for part in _options(annotation):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
        if typing.get_origin(part) in (list, dict):
            return _section(typing.get_args(part)[-1])
    return None
