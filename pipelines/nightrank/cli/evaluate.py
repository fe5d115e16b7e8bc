"""Measures what is published: `nightrank evaluate CONFIG`.

Reads the full depth of the current generation, not just what `results.keep` published.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nightrank.cli.closing import print_json
from nightrank.cli.executors import open_executor
from nightrank.cli.paths import check_writable, local_path, replace_file
from nightrank.cli.terminal import ConfigPath, Generation, Json, Sets

ReportFile = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="HTML report to write.")
]


def evaluate(
    config: ConfigPath,
    sets: Sets = None,
    generation: Generation = None,
    report: ReportFile = None,
    json: Json = False,
) -> None:
    """First stage, reranked and ceiling of every measure; what moved; by vertical."""
    from nightrank.config.file import load_config
    from nightrank.flow.offline_rerank import run_evaluation
    from nightrank.generations.results import generation_of, open_lake
    from nightrank.runtime.progress import Progress
    from nightrank.storage.reader import Reader

    target = local_path(report) if report else None
    if target:
        check_writable(target)
    loaded = load_config(config, sets or [])
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    entry = generation_of(store, generation)
    with open_executor(loaded) as executor:
        manifest = run_evaluation(loaded, store, executor, Progress(quiet=True), entry)
    shard = manifest.shards[0]
    if target:
        replace_file(target, Reader(store).buffer(shard.files["report"]).to_pybytes())
    if json:
        plain = {name: shard.stats[name] for name in ("measures", "judgements")}
        print_json({**plain, **shard.stats["details"]})
        return
    print(shard.stats["summary"])
    print(f"report: {target or store.path(shard.files['report'].key)}")
