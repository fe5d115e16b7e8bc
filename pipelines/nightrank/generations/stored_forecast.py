"""A forecast beside the plan it is of, and what came of it.

`<plan.folder>/forecast.json` is created if absent: the first forecast of a run is the one that it
is held against. The log entry of the results repeats it in short as `forecast`, with `actual`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nightrank.errors import NightrankError
from nightrank.generations.entries import ResultsEntry
from nightrank.storage.sealed import seal, unseal
from nightrank.storage.store import Store

NAME = "forecast.json"


def keep(store: Store, folder: str, forecast: dict[str, Any]) -> bool:
    """Stores a forecast; False where the run has another already.

    Args:
        store: the lake.
        folder: the run's, `Plan.folder`.
        forecast: plain data, as `forecast.predict` gives it.
    """
    return store.put_if_absent(f"{folder}/{NAME}", seal({"forecast": forecast}))


def kept(store: Store, folder: str) -> dict[str, Any] | None:
    """The forecast of a run, in short; None where none was made.

    Returns:
        `seconds` (total), `stages` (seconds by stage), `pairs`, `bytes`, `documents`, `queries`.

    Raises:
        NightrankError: E_CORRUPT where it is no JSON of ours.
    """
    key = f"{folder}/{NAME}"
    try:
        data = store.read(key)
    except FileNotFoundError:
        return None
    do = "move the file away; the run needs none"
    plain = unseal(data, store.path(key), do)["forecast"]
    try:
        return {
            "seconds": plain["seconds"],
            "stages": {name: stage["seconds"] for name, stage in plain["stages"].items()},
            "pairs": plain["pairs"],
            "bytes": plain["bytes"],
            "documents": plain["documents"]["kept"],
            "queries": plain["queries"]["kept"],
        }
    except (KeyError, TypeError, AttributeError):
        what = "the stored forecast is not what `nightrank plan` writes"
        raise NightrankError("E_CORRUPT", what, store.path(key), do) from None


def expected_seconds(store: Store, folder: str, before: ResultsEntry | None) -> dict[str, float]:
    """Seconds by stage that a run may take: by its own forecast, else as the run before it did.

    Args:
        store: the lake.
        folder: the run's, `Plan.folder`.
        before: the entry that the run builds upon.
    """
    if forecast := kept(store, folder) if folder else None:
        return dict(forecast["stages"])
    return dict(before.stage_seconds) if before else {}


def comparison(forecast: Mapping[str, Any] | None, actual: Mapping[str, Any] | None) -> str:
    """One line with a run's forecast beside what it took; empty without a forecast.

    Args:
        forecast: `forecast` of a log entry.
        actual: `actual` of the same entry.
    """
    if not forecast or not actual:
        return ""
    parts = [_beside("s", forecast["seconds"], actual["seconds"])]
    parts += [_beside("MB", forecast["bytes"] / 1e6, actual["bytes"] / 1e6)]
    parts += [_beside("pairs", forecast["pairs"], actual["pairs"])]
    line = "forecast, then actual: " + ", ".join(parts)
    if actual["units_before"]:
        line += f" (resumed: {actual['units_before']} units were done before)"
    return line


def _beside(unit: str, before: float, after: float) -> str:
    digits = 1 if max(before, after) < 100 and unit != "pairs" else 0
    share = f" ({after / before - 1:+.0%})" if before else ""
    return f"{before:,.{digits}f} / {after:,.{digits}f} {unit}{share}"
