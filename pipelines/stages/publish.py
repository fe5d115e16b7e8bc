"""Publishes: one log entry makes an index or a set of results visible, all at once or not at all.

In: manifests. Out: a log entry. Cardinality: one. Knows nothing about: how the data were made.

Before the entry is written every row is accounted for: a run that does not balance does not
publish.
"""

from __future__ import annotations

from typing import Any

from pipelines.stages.accounting import Balance
from pipelines.storage.dataset import FileRef, Manifest
from pipelines.storage.log import Entry, Log
from pipelines.storage.store import Store

VERSION = 1


def publish_index(store: Store, body: dict[str, Any], base: int) -> Entry:
    """Publishes an index generation, unless the current one is the same.

    Raises:
        NightrankError: E_STALE where an index that was made from a later generation than `base` has
            been published since.
    """
    return Log(store, "index").append(body, watermark=base, same=tuple(body))


def publish_results(
    store: Store,
    plan: dict[str, Any],
    balances: list[Balance],
    ranked: Manifest,
    rejects: Manifest,
    watermark: int,
) -> Entry:
    """Checks the balances and publishes a result generation.

    Args:
        store: the lake.
        plan: plan id, folder, epoch, digests, and the index generation used.
        balances: of documents and queries.
        ranked: the rank stage's manifest.
        rejects: the rejects stage's manifest.
        watermark: the generation that was current at planning.

    Returns:
        The new entry; `files` holds key, size, sha256 and rows of every published file by table.
    """
    for balance in balances:
        balance.check()
    tables = {
        "ranked": ranked.files("ranked"),
        "queries": ranked.files("queries"),
        "rejects": rejects.files("rejects"),
    }
    files = {name: [_file(ref) for ref in refs] for name, refs in tables.items()}
    counts = {balance.kind: balance.to_dict() for balance in balances}
    counts["rows"] = {name: sum(ref.rows for ref in refs) for name, refs in tables.items()}
    body = {**plan, "kind": "publish", "files": files, "counts": counts}
    return Log(store, "results").append(body, watermark, same=("plan_id", "epoch"))


def _file(ref: FileRef) -> dict[str, Any]:
    return {"key": ref.key, "size": ref.size, "sha256": ref.sha256, "rows": ref.rows}
