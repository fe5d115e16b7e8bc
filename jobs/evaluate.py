"""Measures what is published: `nightrank evaluate CONFIG`.

Reads the full depth of the current generation, not just what `results.keep` published.
"""

from __future__ import annotations

import orjson

from jobs.terminal import ConfigPath, Generation, Json, Sets, command, open_job


def evaluate(
    config: ConfigPath, sets: Sets = None, generation: Generation = None, json: Json = False
) -> None:
    """First stage, reranked and ceiling of every measure; what moved; by vertical."""
    from pipelines.offline_rerank import run_evaluation
    from pipelines.results import generation_of

    with open_job(config, sets, quiet=True) as job:
        entry = generation_of(job.store, generation)
        manifest = run_evaluation(job, entry)
    shard = manifest.shards[0]
    if json:
        print(
            orjson.dumps({"measures": shard.stats["measures"], **shard.stats["details"]}).decode()
        )
        return
    print(shard.stats["summary"])
    print(f"report: {job.store.path(shard.files['report'].key)}")


if __name__ == "__main__":
    command(evaluate)
