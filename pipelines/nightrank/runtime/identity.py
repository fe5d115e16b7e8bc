"""What a stage's inputs contribute to its dataset's identity: plain data with one canonical form.

A manifest contributes its path, a file reference its sha256, a model its identity. Every field of
an inputs dataclass counts, but those declared with `outside_identity`.
"""

from __future__ import annotations

from dataclasses import MISSING, field, fields, is_dataclass
from typing import Any

from pydantic import BaseModel

from nightrank.models.protocols import ResolvedModel
from nightrank.storage.dataset import FileRef, Manifest

OUTSIDE = {"identity": False}


def outside_identity(default: Any = MISSING, default_factory: Any = MISSING) -> Any:
    """A dataclass field that changes how a stage computes, not what.

    Examples are scores and vectors that are reused, and storage options.
    """
    if default_factory is not MISSING:
        return field(default_factory=default_factory, metadata=OUTSIDE)
    return field(default=default, metadata=OUTSIDE)


def identity_of(value: Any) -> Any:
    """The identity of inputs, or of any value in them.

    Args:
        value: a dataclass, a pydantic model, a manifest, a model, a container or a plain value.

    Returns:
        Plain data that `storage.fingerprint` accepts.
    """
    match value:
        case Manifest():
            return value.path
        case FileRef():
            return value.sha256
        case ResolvedModel():
            return value.identity()
        case BaseModel():
            return value.model_dump(mode="json")
        case dict():
            return {str(key): identity_of(item) for key, item in value.items()}
        case list() | tuple():
            return [identity_of(item) for item in value]
    if is_dataclass(value):
        counted = [one for one in fields(value) if one.metadata.get("identity", True)]
        return {one.name: identity_of(getattr(value, one.name)) for one in counted}
    return value
