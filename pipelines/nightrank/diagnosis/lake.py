"""Checks the store and the inputs of a config, and the permissions of the credentials."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from nightrank.config.schema import PipelineConfig
from nightrank.diagnosis.finding import Finding, examine
from nightrank.diagnosis.store_access import abandoned_uploads, input_summary, store_access
from nightrank.errors import NightrankError
from nightrank.storage.filesystem import StorageOptions
from nightrank.storage.store import Store

DAY = 86_400.0
UPLOADS_DAYS = 7
# S3 refuses requests whose clock differs by 15 minutes.
SKEW_LEAST, SKEW_MOST = 60.0, 900.0
SHOWN = 3


def lake(store: Store) -> Iterator[Finding]:
    """The permissions of the role, create-if-absent, the clocks, and unfinished uploads."""
    access = store_access(store)
    if access.refused:
        found = f"this role may not {', '.join(access.refused)} under {store.url}"
        do = "grant it: infra/iam/writer.json has what a run needs"
        yield Finding("access", "fail", found, do)
    else:
        yield Finding("access", "ok", f"list, put and get under {store.url}")
    if not {"s3:PutObject", "s3:GetObject", "put", "get"} & set(access.refused):
        store.probe()
        yield Finding("store", "ok", "honours create-if-absent, and returns what was written")
    if access.skew is not None:
        found = f"this machine is {access.skew:+.0f} s from the store's"
        skew = abs(access.skew)
        if skew < SKEW_LEAST:
            yield Finding("clock", "ok", found)
        else:
            do = "set the clock (NTP): the store refuses signatures that are 15 minutes off"
            yield Finding("clock", "fail" if skew > SKEW_MOST else "warn", found, do)
    if store.remote:
        yield _uploads(store)


def inputs(config: PipelineConfig, options: StorageOptions) -> Iterator[Finding]:
    """Whether the inputs exist and can be opened; no row is read.

    Args:
        config: the experiment.
        options: of the store of the inputs.
    """
    sources: list[tuple[str, str, str, list[str]]] = [
        (name, source.path, source.format, source.ignore)
        for name, source in (("corpus", config.corpus), ("queries", config.queries))
    ]
    if config.evaluate.qrels:
        sources.append(("qrels", config.evaluate.qrels, "tsv", []))
    for name, path, format, ignore in sources:
        check = functools.partial(_input, name, path, format, ignore, options)
        yield from examine(name, check)


def _input(
    name: str, path: str, format: str, ignore: list[str], options: StorageOptions
) -> Iterator[Finding]:
    summary = input_summary(path, format, options, ignore)
    unit = "file" if summary.files == 1 else "files"
    left_out = f"; {summary.left_out}" if summary.left_out else ""
    found = f"{summary.files} {unit}, {summary.size / 1e6:,.1f} MB, {path}{left_out}"
    yield Finding(name, "ok", found)


def _uploads(store: Store) -> Finding:
    try:
        keys = abandoned_uploads(store, UPLOADS_DAYS * DAY)
    except NightrankError as error:
        if error.code != "E_AUTH":
            raise
        found = "this role may not list unfinished uploads, and need not"
        return Finding("uploads", "ok", found, "check that infra/iam/lifecycle.json clears them")
    if not keys:
        return Finding("uploads", "ok", f"none unfinished for more than {UPLOADS_DAYS} days")
    shown = ", ".join(keys[:SHOWN]) + (" …" if len(keys) > SHOWN else "")
    found = f"{len(keys)} unfinished for more than {UPLOADS_DAYS} days: {shown}"
    do = "they only cost storage: set infra/iam/lifecycle.json on the bucket"
    return Finding("uploads", "warn", found, do)
