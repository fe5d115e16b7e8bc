"""Measures what is published: `nightrank evaluate CONFIG`.

Reads the full depth of the current generation, not just what `results.keep` published.
"""

from __future__ import annotations

import orjson

from nightrank.cli.terminal import ConfigPath, Generation, Json, Sets, open_executor


def evaluate(
    config: ConfigPath, sets: Sets = None, generation: Generation = None, json: Json = False
) -> None:
    """First stage, reranked and ceiling of every measure; what moved; by vertical."""
    from nightrank.config_file import load_config
    from nightrank.offline_rerank import run_evaluation
    from nightrank.results import generation_of, open_lake
    from nightrank.runtime.progress import Progress

    loaded = load_config(config, sets or [])
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    entry = generation_of(store, generation)
    with open_executor(loaded) as executor:
        manifest = run_evaluation(loaded, store, executor, Progress(quiet=True), entry)
    shard = manifest.shards[0]
    if json:
        plain = {name: shard.stats[name] for name in ("measures", "judgements")}
        print(orjson.dumps({**plain, **shard.stats["details"]}).decode())
        return
    print(shard.stats["summary"])
    print(f"report: {store.path(shard.files['report'].key)}")
