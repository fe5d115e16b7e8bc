"""A run on a sample that comes with the package: `nightrank quickstart`.

Copies 4,814 documentation strings of the Python 3.11 standard library, 100 questions and their
judgements to ./quickstart, ranks the questions on Ray, and shows what reranking changed.
"""

from __future__ import annotations

import os
import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from nightrank.cli.closing import command
from nightrank.cli.terminal import Sets, prepare_run

if TYPE_CHECKING:
    from nightrank.api.result import Result
    from nightrank.config.schema import PipelineConfig
    from nightrank.storage.store import Store

FOLDER = "quickstart"
CONFIG = "quickstart.yaml"
SHOWN = 3


def quickstart(sets: Sets = None) -> None:
    """Ranks real text with real models on Ray, in about three minutes on two cores."""
    started = time.monotonic()
    config = str(copy_sample(Path(FOLDER)))
    print(f"documentation of the Python standard library, questions, judgements -> {FOLDER}/")
    loaded = prepare_run(config, sets)
    from nightrank.api import runs

    result = runs.run(loaded)
    _show(loaded, result)
    measure = result.measures["nDCG@10"]
    print(f"\nnDCG@10: {measure.first_stage:.3f} first stage -> {measure.reranked:.3f} reranked")
    print(f"report:  {result.report}")
    print("Parquet:", *result.files)
    print(f"whole run: {time.monotonic() - started:.0f} s")
    shown = command("results", config, sets, "--duckdb")
    print(f"next: {shown}, or your own files: nightrank init my.yaml")


def copy_sample(folder: Path) -> Path:
    """Copies the sample; files that exist in the folder are kept as they are.

    Args:
        folder: is created if it does not exist.

    Returns:
        The config in the folder. Its paths are relative to the folder's parent.
    """
    folder.mkdir(exist_ok=True)
    for file in (files("nightrank") / "quickstart").iterdir():
        if not (folder / file.name).exists():
            part = folder / f".{file.name}.part"
            part.write_bytes(file.read_bytes())
            os.replace(part, folder / file.name)
    return folder / CONFIG


def _show(config: PipelineConfig, result: Result) -> None:
    """Three questions with their top results before and after."""
    import json

    import pyarrow as pa

    from nightrank.generations.results import full_lists, generation_of, open_lake

    texts = {}
    with open(config.queries.path, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            texts[row["_id"]] = row["text"]
    store = open_lake(config.root, config.name, config.storage_options)
    entry = generation_of(store, result.generation)
    chosen = _chosen(store, result.evaluation)
    lists = full_lists(store, entry, pa.array([query_id for query_id, _, _ in chosen]))
    rows = lists.select(["query_id", "doc_id", "rank", "first_stage_rank"]).to_pylist()
    for query_id, before, after in chosen:
        print(f"\n{texts[query_id]}   (nDCG@10 {before:.2f} -> {after:.2f})")
        mine = [row for row in rows if row["query_id"] == query_id]
        first = sorted(mine, key=lambda row: row["first_stage_rank"])[:SHOWN]
        last = sorted(mine, key=lambda row: row["rank"])[:SHOWN]
        print(f"     {'first stage':<44} reranked")
        for place, (old, new) in enumerate(zip(first, last, strict=True), 1):
            moved = f"(was {new['first_stage_rank']})" if new["first_stage_rank"] != place else ""
            print(f"  {place}. {old['doc_id']:<44} {new['doc_id']} {moved}".rstrip())


def _chosen(store: Store, evaluation: str) -> list[tuple[str, float, float]]:
    """The questions of the report's examples, with nDCG@10 before and after."""
    import pyarrow.compute as pc

    from nightrank.stages.evaluate import pick
    from nightrank.storage.dataset import Dataset
    from nightrank.storage.reader import Reader

    manifest = Dataset(store, evaluation).manifest()
    assert manifest is not None
    table = Reader(store).table(manifest.shards[0].files["per_query"])
    table = table.filter(pc.equal(table["measure"], "nDCG@10"))
    scores = {(row["query_id"], row["run"]): row["value"] for row in table.to_pylist()}
    return [
        (query_id, scores[query_id, "first_stage"], scores[query_id, "reranked"])
        for query_id in pick(table, "nDCG@10")
    ]
