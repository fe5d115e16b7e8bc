"""Publishes: one log entry makes an index or a set of results visible, all at once or not at all.

In: manifests. Out: a log entry. Cardinality: one. Knows nothing about: how the data were made.

Before the entry is written every row is accounted for: a run that does not balance does not
publish.
"""

from __future__ import annotations

from typing import Any

from pipelines.stages.accounting import Balance
from pipelines.storage.dataset import FileRef
from pipelines.storage.log import Entry, Log
from pipelines.storage.store import Store

VERSION = 1


def publish_index(store: Store, body: dict[str, Any], watermark: int, uses: list[str]) -> Entry:
    """Publishes an index generation, unless the current one is the same.

    Raises:
        NightrankError: E_STALE where one that was planned later than at `watermark` stands, and as
            `Log.append`.
    """
    return Log(store, "index").append(body, watermark, tuple(body), uses)


def results_body(
    plan: dict[str, Any],
    balances: list[Balance],
    tables: dict[str, list[FileRef]],
    before: Entry | None,
) -> dict[str, Any]:
    """What a log entry will say of a finished run, once its balances hold.

    A file whose bytes the generation before has published already is named where it lies.

    Args:
        plan: plan id, folder, epoch, digests, and the index generation used.
        balances: of documents and queries.
        tables: published files by table.
        before: the generation that stands.

    Returns:
        The body; `files` holds key, size, sha256 and rows of every published file by table.

    Raises:
        NightrankError: E_ACCOUNTING.
    """
    for balance in balances:
        balance.check()
    known = {
        file["sha256"]: file
        for files in (before.body["files"].values() if before else ())
        for file in files
    }
    files = {
        name: [known.get(ref.sha256) or _file(ref) for ref in refs] for name, refs in tables.items()
    }
    counts = {balance.kind: balance.to_dict() for balance in balances}
    counts["rows"] = {name: sum(ref.rows for ref in refs) for name, refs in tables.items()}
    return {**plan, "kind": "publish", "files": files, "counts": counts}


# A publication is known by these: whoever finds them in the current entry has nothing left to do.
SAME = ("plan_id", "epoch", "rerank_depth")


def publish_results(
    store: Store, body: dict[str, Any], watermark: int, uses: list[str], onto: int
) -> Entry:
    """Publishes a result generation whose changes are told against `onto`; see `Log.append`."""
    return Log(store, "results").append(body, watermark, SAME, uses, onto)


def _file(ref: FileRef) -> dict[str, Any]:
    return {"key": ref.key, "size": ref.size, "sha256": ref.sha256, "rows": ref.rows}
