"""The declared stages in the order of a run, and what their versions make reusable.

Everything that names stages derives from `STAGES`: `--from` and `--to`, a plan's versions, keys of
what later runs take over. A key changes with the version of every stage that it depends on, so a
release that changes what a stage computes never reuses what the stage computed before.
"""

from __future__ import annotations

from typing import Any

from nightrank.errors import NightrankError
from nightrank.models.protocols import ResolvedModel
from nightrank.runtime.stage import Declaration
from nightrank.stages import (
    build_index,
    carry,
    changes,
    compact,
    copy,
    delta,
    distinct,
    embed,
    evaluate,
    extract,
    ingest,
    merge,
    rank,
    rejects,
    removals,
    rerank,
    search,
    segment,
    terms,
    tokenize,
    train_index,
)
from nightrank.storage.fingerprint import fingerprint

# Modules, so that a test can replace a declaration and every key follows.
MODULES = (
    ingest,
    delta,
    removals,
    extract,
    segment,
    tokenize,
    terms,
    embed,
    train_index,
    build_index,
    compact,
    copy,
    distinct,
    carry,
    search,
    merge,
    rerank,
    rank,
    changes,
    rejects,
    evaluate,
)
# Publication itself is no stage, but a place to stop at.
PUBLISH = "publish"


def declarations() -> tuple[Declaration[Any], ...]:
    """All stages, in the order of a run."""
    return tuple(module.STAGE for module in MODULES)


def stops() -> tuple[str, ...]:
    """What `--from` and `--to` take, in the order of a run."""
    names = [declaration.name for declaration in declarations()]
    return (*names[:-1], PUBLISH, names[-1])


def position(name: str) -> int:
    """Place of a stage in the order of a run.

    Raises:
        NightrankError: E_USAGE for a name that no stage has.
    """
    names = stops()
    if name not in names:
        do = f"stages: {', '.join(names)}"
        raise NightrankError("E_USAGE", f"no stage is called {name!r}", "", do)
    return names.index(name)


def versions() -> dict[str, int]:
    """Version of every stage, by name."""
    return {declaration.name: declaration.version for declaration in declarations()}


def versions_of(*names: str) -> dict[str, int]:
    """Versions of these stages."""
    every = versions()
    return {name: every[name] for name in names}


def segment_versions(compacted: bool) -> dict[str, int]:
    """Versions of the stages that write a segment's documents, as an index entry keeps them."""
    if compacted:
        return versions_of("compact", "copy")
    return versions_of("ingest", "delta", "extract", "segment")


def vectors_key(encoder: ResolvedModel) -> str:
    """What the vector of a text depends on beside the text."""
    made_by = versions_of("tokenize", "embed")
    return fingerprint({"encoder": encoder.identity(), "versions": made_by})


def scores_key(model: ResolvedModel) -> str:
    """What the score of a pair depends on beside the two texts."""
    made_by = versions_of("tokenize", "rerank")
    return fingerprint({"model": model.identity(), "versions": made_by})
