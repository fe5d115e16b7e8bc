"""Listwise fine-tuning of the built-in reranker's low-rank difference.

The loss of a group is the cross-entropy of its positive among itself and its negatives (the
softmax over the scores of 1 + k documents). Scores of all pairs of a step are computed in batches
of near-equal length, then gathered, so that no group pays for its longest document.

What a step trains on is a pure function of (seed, step): an interrupted run resumes where its
checkpoint stands and goes on as if nothing had happened.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.models.batching import pack
from pipelines.models.interaction import InteractionReranker
from pipelines.models.splicing import Splicer
from pipelines.models.tokens import Tokens

log = logging.getLogger(__name__)

Ids = Sequence[int]
"""Token ids of one text, without special tokens."""


@dataclass(frozen=True)
class Example:
    """A group as token ids: the query, its positive, and the negatives to draw from."""

    query: Ids
    positive: Ids
    negatives: Sequence[Ids]


@dataclass(frozen=True)
class Source:
    """One collection's examples and its share of the groups of a run."""

    name: str
    examples: Sequence[Example]
    weight: float


@dataclass(frozen=True)
class Options:
    """Everything about the optimisation.

    Attributes:
        steps: optimiser steps of the entire schedule.
        groups_per_step: groups of one step.
        negatives: negatives drawn for each group.
        learning_rate: the highest rate; linear warm-up, then half a cosine down to zero.
        warmup_steps: steps of the warm-up.
        weight_decay: AdamW's decoupled decay.
        token_budget: padded tokens of one forward batch.
        bf16: autocast to bfloat16.
        seed: fixes the order, the draws and the initial values.
        time_limit_s: stop (with a checkpoint) after so many seconds of this process.
        checkpoint_every: steps between checkpoints, each with a dev evaluation.
    """

    steps: int
    groups_per_step: int
    negatives: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    token_budget: int
    bf16: bool
    seed: int
    time_limit_s: float
    checkpoint_every: int


def plan_step(sources: Sequence[Source], options: Options, step: int) -> list[Example]:
    """The groups of one step: sources drawn by weight, each source in shuffled epochs.

    Args:
        sources: the collections.
        options: seed and sizes.
        step: from 0.

    Returns:
        `groups_per_step` examples with exactly the negatives to score (fewer where the pool is
        smaller). Negatives are drawn from the pool with a bias to its hard end.
    """
    size = options.groups_per_step
    share = np.array([s.weight for s in sources]) / sum(s.weight for s in sources)
    drawn = np.random.default_rng([options.seed, 0]).choice(
        len(sources), size=options.steps * size, p=share
    )
    chosen: list[Example] = []
    for slot in range(step * size, (step + 1) * size):
        which = int(drawn[slot])
        examples = sources[which].examples
        position = int((drawn[:slot] == which).sum())
        epoch, offset = divmod(position, len(examples))
        order = np.random.default_rng([options.seed, 1, which, epoch]).permutation(len(examples))
        example = examples[int(order[offset])]
        rng = np.random.default_rng([options.seed, 2, slot])
        odds = 1.0 / (np.arange(len(example.negatives)) + 10.0)
        picked = rng.choice(
            len(example.negatives),
            size=min(options.negatives, len(example.negatives)),
            replace=False,
            p=odds / odds.sum(),
        )
        negatives = [example.negatives[int(i)] for i in picked]
        chosen.append(Example(example.query, example.positive, negatives))
    return chosen


def learning_rate(options: Options, step: int) -> float:
    """Linear warm-up, then half a cosine to zero at `steps`."""
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / options.warmup_steps
    done = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
    return options.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def score_pairs(
    model: InteractionReranker,
    pairs: Sequence[tuple[Ids, Ids]],
    *,
    splicer: Splicer,
    token_budget: int,
    bf16: bool,
) -> Tensor:
    """Raw scores of (query, document) token ids, in order; gradients flow when enabled.

    Args:
        model: the network.
        pairs: token ids without special tokens.
        splicer: puts the inputs together.
        token_budget: padded tokens of one batch.
        bf16: autocast to bfloat16.

    Returns:
        float32 [n].
    """
    queries = Tokens.from_lists(query for query, _ in pairs)
    documents = Tokens.from_lists(document for _, document in pairs)
    lengths = splicer.lengths(queries.lengths, documents.lengths)
    batches = pack(lengths, token_budget)
    parts: list[Tensor] = []
    for rows in batches:
        made = splicer.batch(queries, rows, documents, rows)
        ids, sizes = torch.from_numpy(made.input_ids), torch.from_numpy(made.lengths)
        padded = int(made.lengths.min()) < ids.shape[1]
        mask = (torch.arange(ids.shape[1]) < sizes[:, None]).long() if padded else None
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            parts.append(model(ids, mask, torch.from_numpy(made.first_lengths), sizes))
    order = torch.from_numpy(np.argsort(np.concatenate(batches)))
    return torch.cat(parts)[order]


def listwise_loss(scores: Tensor, sizes: Sequence[int]) -> Tensor:
    """Mean over groups of -log softmax(score of the group's first document).

    Args:
        scores: float32 [sum(sizes)], each group's positive first.
        sizes: documents of each group.
    """
    parts = torch.split(scores, list(sizes))
    return torch.stack([part.logsumexp(0) - part[0] for part in parts]).mean()


def train(
    model: InteractionReranker,
    sources: Sequence[Source],
    options: Options,
    *,
    splicer: Splicer,
    folder: Path,
    evaluate: Callable[[InteractionReranker], float],
) -> dict[str, Any]:
    """Runs (or goes on with) a training, keeping the best checkpoint by dev score.

    Args:
        model: prepared by `low_rank.make_trainable`; left at the last step's weights.
        sources: what to train on.
        options: how.
        splicer: puts the inputs together.
        folder: takes `last.pt` (to resume) and `best.pt` (the trainable tensors).
        evaluate: the dev score of a model, higher is better.

    Returns:
        step, best_step, best_score, wall_s (over all processes of this run).
    """
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    decayed = [p for p in trainable.values() if p.ndim > 1]
    kept = [p for p in trainable.values() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": options.weight_decay},
            {"params": kept, "weight_decay": 0.0},
        ],
        lr=options.learning_rate,
    )
    state: dict[str, Any] = {"step": 0, "best_step": -1, "best_score": -1.0, "wall_s": 0.0}
    last, best = folder / "last.pt", folder / "best.pt"
    if last.exists():
        saved = torch.load(last, weights_only=True)
        model.load_state_dict(saved["model"], strict=False)
        optimiser.load_state_dict(saved["optimiser"])
        state = saved["state"]
        log.info("resuming at step %d", state["step"])
    begun, earlier = time.monotonic(), float(state["wall_s"])
    window: list[float] = []
    for step in range(int(state["step"]), options.steps):
        rate = learning_rate(options, step)
        for parameters in optimiser.param_groups:
            parameters["lr"] = rate
        groups = plan_step(sources, options, step)
        pairs = [(g.query, d) for g in groups for d in (g.positive, *g.negatives)]
        model.train()
        scores = score_pairs(
            model,
            pairs,
            splicer=splicer,
            token_budget=options.token_budget,
            bf16=options.bf16,
        )
        loss = listwise_loss(scores, [1 + len(g.negatives) for g in groups])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable.values(), 1.0)
        optimiser.step()
        window.append(float(loss.detach()))
        elapsed = time.monotonic() - begun
        done = step + 1 - int(state["step"]) if step >= int(state["step"]) else 1
        if (step + 1) % 10 == 0:
            log.info("%s", _progress(step + 1, options, window, rate, elapsed, done))
            window.clear()
        stop = elapsed > options.time_limit_s
        if (step + 1) % options.checkpoint_every == 0 or step + 1 == options.steps or stop:
            score = evaluate(model)
            if score > state["best_score"]:
                state |= {"best_step": step + 1, "best_score": score}
                _save(best, {n: p.detach() for n, p in trainable.items()})
            snapshot = state | {"step": step + 1, "wall_s": earlier + time.monotonic() - begun}
            _save(
                last,
                {
                    "model": {n: p.detach() for n, p in trainable.items()},
                    "optimiser": optimiser.state_dict(),
                    "state": snapshot,
                },
            )
            log.info("step %d: dev %.4f (best %.4f)", step + 1, score, state["best_score"])
            if stop:
                break
    final = torch.load(last, weights_only=True)["state"]
    return dict(final)


def _progress(
    step: int, options: Options, window: Sequence[float], rate: float, elapsed: float, done: int
) -> str:
    """One line: where the run stands, how fast, and when it ends at this pace."""
    left = elapsed / max(1, done) * (options.steps - step)
    return (
        f"step {step}/{options.steps} loss {np.mean(window):.4f} rate {rate:.2e} "
        f"{elapsed / max(1, done):.2f} s/step ETA {left / 60:.0f} min"
    )


def _save(path: Path, value: dict[str, Any]) -> None:
    """Writes beside the target, then renames, so that an interruption leaves the old file."""
    temporary = path.with_suffix(".tmp")
    torch.save(value, temporary)
    temporary.replace(path)
