"""Publishes: one log entry makes an index or a set of results visible, all at once or not at all.

In: manifests. Out: a log entry. Cardinality: one. Knows nothing about: how the data were made.

Before the entry is written every row is accounted for: a run that does not balance does not
publish.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nightrank.errors import NightrankError
from nightrank.generations.accounting import Balance
from nightrank.storage.dataset import FileRef
from nightrank.storage.log import Entry, Log
from nightrank.storage.store import Store


def publish_index(store: Store, body: dict[str, Any], watermark: int, uses: list[str]) -> Entry:
    """Publishes an index generation, unless the current one is the same.

    Raises:
        NightrankError: E_STALE where one that was planned later than at `watermark` is current; as
            `Log.append` and `refuse_gone`.
    """
    refuse_gone(store, uses)
    return Log(store, "index").append(body, watermark, tuple(body), uses)


def refuse_gone(store: Store, uses: list[str]) -> None:
    """Refuses datasets that lost their manifests since this run found them.

    A collection that was decided before this run was planned may still have been deleting then: the
    log's numbers cannot tell, since this run knows of it.

    Raises:
        NightrankError: E_CONDEMNED.
    """
    with ThreadPoolExecutor(16) as pool:
        there = list(pool.map(lambda path: store.exists(f"{path}/manifest.json"), uses))
    if not all(there):
        what = f"{uses[there.index(False)]} was deleted while this run used it"
        do = "run the same command again to compute it again"
        raise NightrankError("E_CONDEMNED", what, "", do)


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
        before: the current generation.

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


# A publication is known by these: a run that finds them in the current entry has nothing to do.
SAME = ("plan_id", "versions", "epoch", "rerank_depth")


def publish_results(
    store: Store,
    body: dict[str, Any],
    watermark: int,
    uses: list[str],
    onto: int,
    over_rollback: bool = False,
) -> Entry:
    """Publishes a result generation whose changes are compared with `onto`; see `Log.append`."""
    refuse_gone(store, uses)
    log = Log(store, "results")
    return log.append(body, watermark, SAME, uses, onto, over_rollback)


def _file(ref: FileRef) -> dict[str, Any]:
    return {"key": ref.key, "size": ref.size, "sha256": ref.sha256, "rows": ref.rows}
