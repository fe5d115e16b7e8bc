"""The commit protocol without a pipeline: a few shards, a manifest, an entry; reading it back."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from nightrank.generations.entries import (
    IndexEntry,
    ResultDatasets,
    ResultsEntry,
    TemplateEntry,
)
from nightrank.generations.publish import publish_results
from nightrank.storage.dataset import Dataset, FileRef, Payload, shard_names
from nightrank.storage.log import Entry, Log, Moved
from nightrank.storage.reader import Reader
from nightrank.storage.sealed import seal, unseal
from nightrank.storage.store import Store

SHARDS = 4
MODEL = {"model": "toy:bag-of-words"}


EMPTY_INDEX = IndexEntry(
    base=0,
    source_id="",
    corpus_id="",
    files_id="",
    ingest="",
    delta="",
    segments=(),
    tombstones=(),
    next_segment=0,
    template=TemplateEntry("", "", 0, 0, "Flat", ""),
    encoder=MODEL,
    vectors_key="",
    compacted=None,
)


def results(plan: str, folder: str, path: str) -> ResultsEntry:
    """A result generation whose datasets are all one."""
    return ResultsEntry(
        plan_id=plan,
        versions={},
        folder=folder,
        epoch=0,
        index_generation=1,
        queries="queries/none",
        datasets=ResultDatasets(*[path] * 8),
        config={},
        models=[],
        stored_models=[],
        lists_key="",
        vectors_key="",
        stores={},
        run_number=0,
        recall=None,
        precision={},
        cut=[],
        unfinished="",
        rerank_depth=0,
        changes_since=0,
        stage_seconds={},
    )


def content(plan: str, shard: int) -> pa.Table:
    """Rows that tell of which plan and shard they are."""
    return pa.table({"plan": [plan] * 50, "row": list(range(shard * 50, shard * 50 + 50))})


def publish(root: str, plan: str, store: Store | None = None, forced: bool = False) -> Entry:
    """Publishes a plan, or resumes it; what it builds upon is frozen when it first begins."""
    store = store or Store(root)
    store.probe()
    # Of an index without documents: what garbage collection looks at.
    store.put_if_absent(f"index/_log/{1:020d}.json", seal(EMPTY_INDEX.body()))
    log = Log(store, "results")
    folder = f"results/{plan}.0"
    store.put_if_absent(f"{folder}/plan.json", seal({"watermark": log.last()}))
    frozen = unseal(store.read(f"{folder}/plan.json"), folder, "")
    dataset = Dataset(store, f"{folder}/rank")
    manifest = dataset.manifest()
    if manifest is None:
        done, again = dataset.records(), dataset.next_attempts()
        for number, shard in enumerate(shard_names(SHARDS)):
            if shard not in done:
                payload = Payload({"rows": content(plan, number)})
                done[shard] = dataset.commit(shard, again.get(shard, 0), payload, lambda: 0.0)
        records = [done[shard] for shard in shard_names(SHARDS)]
        manifest = dataset.finish("rank", 1, {"plan": plan}, records)
    body = results(plan, folder, dataset.path).body() | {
        "kind": "publish",
        "files": {"ranked": [_file(ref) for ref in manifest.files("rows")]},
    }
    while True:
        current = log.current()
        onto = current.generation if current else 0
        try:
            mark = frozen["watermark"]
            return publish_results(store, body, mark, [dataset.path], onto, forced)
        except Moved:
            continue


def _file(ref: FileRef) -> dict[str, Any]:
    return {"key": ref.key, "size": ref.size, "sha256": ref.sha256, "rows": ref.rows}


def read(store: Store, entry: Entry | None = None) -> tuple[str, int] | None:
    """Plan and number of what is current (or of `entry`); None where nothing is.

    Raises:
        AssertionError: for rows of another plan, or other rows.
        NightrankError: for a file that is missing or damaged.
    """
    entry = entry or Log(store, "results").current()
    if entry is None:
        return None
    plan = str(entry.body["plan_id"])
    files = [
        FileRef(f["key"], f["size"], f["sha256"], f["rows"]) for f in entry.body["files"]["ranked"]
    ]
    tables = [Reader(store).table(ref) for ref in files]
    assert tables == [content(plan, number) for number in range(SHARDS)]
    return plan, entry.generation
