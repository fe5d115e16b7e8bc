"""Trains a cross-encoder: `nightrank train-reranker CONFIG [--set KEY=VALUE ...]`.

Writes a model folder and `report.json`; the same command resumes. See `nightrank.training.job`.
"""

from __future__ import annotations

import json

from nightrank.cli.terminal import ConfigPath, Sets
from nightrank.runtime import supervisor


def train_reranker(config: ConfigPath, sets: Sets = None) -> None:
    """Trains a cross-encoder from judgements or a teacher's scores; the same command resumes."""
    from nightrank.config.file import load_section
    from nightrank.config.training import TrainConfig

    loaded = load_section(TrainConfig, config, sets or [])
    if loaded.workers:
        supervisor.supervise(loaded.address or "a cluster started here")
    from nightrank.training import job

    job.log_to_stderr()
    report = job.train(loaded)
    print(json.dumps(report["dev_ndcg@10_by_first_stage_weight"], indent=2))
