"""From training sources and held-out pools to the files that ship: one run of `training.train`.

Opens the base, trains it, chooses the first stage's weight on the held-out pools, and writes the
model. Knows nothing about collections or their files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as distributed

from nightrank.training.checkpoints import load as load_checkpoint
from nightrank.training.groups import Source
from nightrank.training.judged_collections import Pool, judge
from nightrank.training.loop import Options, train
from nightrank.training.selection import choose_weight, mean_ndcg
from nightrank.training.trainee import Trainee


@dataclass(frozen=True)
class Looks:
    """How a model is looked at.

    Attributes:
        depth: candidates per held-out query for the final scores.
        checkpoint_queries: held-out queries of each collection at a checkpoint.
        checkpoint_depth: candidates per query at a checkpoint.
    """

    depth: int
    checkpoint_queries: int
    checkpoint_depth: int


def fine_tune(
    trainee: Trainee,
    sources: Sequence[Source],
    pools: Mapping[str, Sequence[Pool]],
    options: Options,
    looks: Looks,
    checkpoints: Path,
    target: Path,
    first_stage_weight: float | None,
) -> dict[str, Any]:
    """Trains (or goes on), chooses the weight, writes the files.

    Args:
        trainee: what is trained.
        sources: what to train on.
        pools: held-out queries by collection; without any, the last weights are written, and 0 as
            the first stage's weight.
        options: the optimisation.
        looks: how it is evaluated.
        checkpoints: folder of this training's own, to resume from.
        target: folder that takes the model.
        first_stage_weight: what the model is to recommend; None chooses on the held-out queries.

    Returns:
        `dev_ndcg@10_by_first_stage_weight`, `training` (steps, best step, wall seconds, pairs) and
        `config` as written; only `training` on a process that is not the first.
    """

    def look() -> float:
        judged = {
            name: judge(
                trainee, part[: looks.checkpoint_queries], looks.checkpoint_depth, options.bf16
            )
            for name, part in pools.items()
        }
        return choose_weight(judged)[1]

    checkpoints.mkdir(parents=True, exist_ok=True)
    state = train(trainee, sources, options, folder=checkpoints, evaluate=look if pools else None)
    if distributed.is_initialized() and distributed.get_rank() > 0:
        return {"training": state}
    best, _ = load_checkpoint(checkpoints / "best.safetensors")
    trainee.network.load_state_dict(best, strict=False)
    final = {name: judge(trainee, part, looks.depth, options.bf16) for name, part in pools.items()}
    chosen = choose_weight(final)[0] if final else 0.0
    weight = chosen if first_stage_weight is None else first_stage_weight
    shown = sorted({0.0, chosen, weight, 0.5, 1.0})
    return {
        "dev_ndcg@10_by_first_stage_weight": {f"{w:.2f}": mean_ndcg(final, w) for w in shown},
        "training": state,
        "config": trainee.write(target, weight),
    }
