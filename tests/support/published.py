"""A generation that tests only read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nightrank.api.result import Result
from tests.support.collection import Collection


@dataclass(frozen=True)
class Published:
    """A config as a mapping, its collection, and the result of its run."""

    collection: Collection
    config: dict[str, Any]
    result: Result
