"""From training sources and held-out pools to the files that ship: one run of `training.train`.

Builds the network, trains its difference, chooses the first stage's weight on the held-out pools,
and writes `delta.safetensors` and `config.json`. Knows nothing about collections or their files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.errors import NightrankError
from pipelines.models import builtin, low_rank
from pipelines.models.bi_encoders import splicer_for
from pipelines.models.builtin_reranker import build_reranker, write_reranker
from pipelines.models.interaction import InteractionReranker
from pipelines.models.judged_collections import Pool, judge
from pipelines.models.selection import choose_weight, mean_ndcg
from pipelines.models.training import Options, Source, train


@dataclass(frozen=True)
class Shape:
    """What is trained and how it is looked at on the way.

    Attributes:
        rank: of every linear layer's difference.
        scale: factor of every low-rank product.
        max_length_tokens: tokens of a pair, special ones counted.
        threads: CPU threads.
        dev_depth: candidates per held-out query for the final scores.
        checkpoint_queries: held-out queries of each collection at a checkpoint.
        checkpoint_depth: candidates per query at a checkpoint.
    """

    rank: int
    scale: float
    max_length_tokens: int
    threads: int
    dev_depth: int
    checkpoint_queries: int
    checkpoint_depth: int


def fine_tune(
    sources: Sequence[Source],
    pools: Mapping[str, Sequence[Pool]],
    options: Options,
    shape: Shape,
    output: Path,
) -> dict[str, Any]:
    """Trains (or goes on), chooses the weight, writes the files.

    Args:
        sources: what to train on.
        pools: held-out queries by collection; without any, the last checkpoint and weight 0 ship.
        options: the optimisation.
        shape: the rest.
        output: takes the files; checkpoints lie in its `work/`.

    Returns:
        `dev_ndcg@10_by_first_stage_weight`, `training` (steps, best step, wall seconds) and
        `config` as written.

    Raises:
        NightrankError: E_MODEL, where the base weights are missing or cannot be spliced.
    """
    torch.set_num_threads(shape.threads)
    torch.manual_seed(options.seed)
    base, work = builtin.minilm_folder(), output / "work"
    splicer = splicer_for(base, shape.max_length_tokens, pair=True)
    if splicer is None:
        do = "install the pinned versions of transformers and tokenizers"
        raise NightrankError("E_MODEL", "the base tokenizer cannot be spliced", str(base), do)
    model = build_reranker(base)
    low_rank.make_trainable(model, shape.rank, shape.scale, options.seed)
    initial = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    def look(candidate: InteractionReranker) -> float:
        if not pools:
            return 0.0
        judged = {
            name: judge(
                candidate,
                part[: shape.checkpoint_queries],
                shape.checkpoint_depth,
                splicer,
                options.bf16,
            )
            for name, part in pools.items()
        }
        return choose_weight(judged)[1]

    state = train(model, sources, options, splicer=splicer, folder=work, evaluate=look)
    model.load_state_dict(torch.load(work / "best.pt", weights_only=True), strict=False)
    final = {
        name: judge(model, part, shape.dev_depth, splicer, options.bf16)
        for name, part in pools.items()
    }
    weight = choose_weight(final)[0] if final else 0.0
    written = write_reranker(
        output,
        low_rank.export_delta(model, initial),
        shape.rank,
        shape.scale,
        shape.max_length_tokens,
        weight,
    )
    return {
        "dev_ndcg@10_by_first_stage_weight": {
            f"{w:.2f}": mean_ndcg(final, w) for w in sorted({0.0, weight, 0.5, 1.0})
        },
        "training": state,
        "config": written.to_dict(),
    }
