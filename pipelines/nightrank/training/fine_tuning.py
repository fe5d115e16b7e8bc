"""Trains a network, chooses the weight of the first stage on held-out queries, writes the model.

Knows nothing about collections or their files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as distributed

from nightrank.training.checkpoints import TrainingState
from nightrank.training.checkpoints import load as load_checkpoint
from nightrank.training.groups import Source
from nightrank.training.held_out import HeldOutQuery, score_held_out
from nightrank.training.loop import Options, train
from nightrank.training.selection import choose_weight, mean_ndcg
from nightrank.training.trainee import Trainee


@dataclass(frozen=True)
class DevOptions:
    """How a network is evaluated on held-out queries.

    Attributes:
        depth: candidates per query for the final scores.
        checkpoint_queries: queries of each collection at a checkpoint.
        checkpoint_depth: candidates per query at a checkpoint.
    """

    depth: int
    checkpoint_queries: int
    checkpoint_depth: int


@dataclass(frozen=True)
class FineTuned:
    """The result of a training.

    Attributes:
        training: steps, best step, pairs and seconds.
        dev_ndcg: mean nDCG@10 by weight of the first stage, then by collection.
        config: the model's config.json as written; None in a process that is not the first, which
            writes no model.
    """

    training: TrainingState
    dev_ndcg: dict[float, dict[str, float]]
    config: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """The report's fields, JSON-able."""
        return {
            "dev_ndcg@10_by_first_stage_weight": {f"{w:.2f}": n for w, n in self.dev_ndcg.items()},
            "training": self.training.to_dict(),
            "config": self.config,
        }


def fine_tune(
    trainee: Trainee,
    sources: Sequence[Source],
    held_out: Mapping[str, Sequence[HeldOutQuery]],
    options: Options,
    dev: DevOptions,
    checkpoints: Path,
    target: Path,
    first_stage_weight: float | None,
) -> FineTuned:
    """Runs or resumes a training, chooses the weight, writes the model.

    Args:
        trainee: what is trained.
        sources: what to train on.
        held_out: held-out queries by collection; without any, the last weights are written, with 0
            as the weight of the first stage.
        options: the optimisation.
        dev: how held-out queries are scored.
        checkpoints: a folder of this training alone, to resume from.
        target: the folder for the model.
        first_stage_weight: the weight that the model recommends; None chooses it on the held-out
            queries.
    """

    def dev_score() -> float:
        scored = {
            name: score_held_out(
                trainee, queries[: dev.checkpoint_queries], dev.checkpoint_depth, options.bf16
            )
            for name, queries in held_out.items()
        }
        return choose_weight(scored)[1]

    checkpoints.mkdir(parents=True, exist_ok=True)
    evaluate = dev_score if held_out else None
    state = train(trainee, sources, options, folder=checkpoints, evaluate=evaluate)
    if distributed.is_initialized() and distributed.get_rank() > 0:
        return FineTuned(state, {}, None)
    best, _ = load_checkpoint(checkpoints / "best.safetensors")
    trainee.network.load_state_dict(best, strict=False)
    scored = {
        name: score_held_out(trainee, queries, dev.depth, options.bf16)
        for name, queries in held_out.items()
    }
    chosen = choose_weight(scored)[0] if scored else 0.0
    weight = chosen if first_stage_weight is None else first_stage_weight
    shown = sorted({0.0, chosen, weight, 0.5, 1.0})
    dev_ndcg = {shown_weight: mean_ndcg(scored, shown_weight) for shown_weight in shown}
    return FineTuned(state, dev_ndcg, trainee.write(target, weight))
