"""The store and the inputs of a config: what it honours, what the credentials reach."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from nightrank.config.schema import PipelineConfig
from nightrank.diagnosis.finding import Finding, examine
from nightrank.diagnosis.store_access import abandoned_uploads, input_reach, store_access
from nightrank.errors import NightrankError
from nightrank.storage.store import Store

DAY = 86_400.0
UPLOADS_DAYS = 7
# S3 refuses a signature that is 15 minutes off.
SKEW_LEAST, SKEW_MOST = 60.0, 900.0
SHOWN = 3


def lake(store: Store) -> Iterator[Finding]:
    """The store's promise, the role's actions, clocks, and uploads that nobody finished."""
    reach = store_access(store)
    if reach.refused:
        found = f"this role may not {', '.join(reach.refused)} under {store.url}"
        do = "grant it: infra/iam/writer.json has what a run needs"
        yield Finding("access", "fail", found, do)
    else:
        yield Finding("access", "ok", f"list, put and get under {store.url}")
    if not {"s3:PutObject", "s3:GetObject", "put", "get"} & set(reach.refused):
        store.probe()
        yield Finding("store", "ok", "honours create-if-absent, and reads back what was written")
    if reach.skew is not None:
        found = f"this machine is {reach.skew:+.0f} s from the store's"
        off = abs(reach.skew)
        if off < SKEW_LEAST:
            yield Finding("clock", "ok", found)
        else:
            do = "set the clock (NTP): the store refuses signatures that are 15 minutes off"
            yield Finding("clock", "fail" if off > SKEW_MOST else "warn", found, do)
    if store.remote:
        yield _uploads(store)


def inputs(config: PipelineConfig, options: dict[str, Any]) -> Iterator[Finding]:
    """Whether the inputs are there and may be read; their rows are not looked at.

    Args:
        config: names them.
        options: to open them with.
    """
    sources: list[tuple[str, str, str, list[str]]] = [
        (name, source.path, source.format, source.ignore)
        for name, source in (("corpus", config.corpus), ("queries", config.queries))
    ]
    if config.evaluate.qrels:
        sources.append(("qrels", config.evaluate.qrels, "tsv", []))
    for name, path, format, ignore in sources:
        look = functools.partial(_input, name, path, format, ignore, options)
        yield from examine(name, look)


def _input(
    name: str, path: str, format: str, ignore: list[str], options: dict[str, Any]
) -> Iterator[Finding]:
    files, size, left_out = input_reach(path, format, options, ignore)
    many = "file" if files == 1 else "files"
    more = f"; {left_out}" if left_out else ""
    yield Finding(name, "ok", f"{files} {many}, {size / 1e6:,.1f} MB, {path}{more}")


def _uploads(store: Store) -> Finding:
    try:
        keys = abandoned_uploads(store, UPLOADS_DAYS * DAY)
    except NightrankError as error:
        if error.code != "E_AUTH":
            raise
        found = "this role may not list unfinished uploads, and need not"
        return Finding("uploads", "ok", found, "see that infra/iam/lifecycle.json clears them")
    if not keys:
        return Finding("uploads", "ok", f"none unfinished for more than {UPLOADS_DAYS} days")
    shown = ", ".join(keys[:SHOWN]) + (" …" if len(keys) > SHOWN else "")
    found = f"{len(keys)} unfinished for more than {UPLOADS_DAYS} days: {shown}"
    do = "they cost storage and nothing else: set infra/iam/lifecycle.json on the bucket"
    return Finding("uploads", "warn", found, do)
