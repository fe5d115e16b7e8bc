"""Fine-tuning of a cross-encoder on groups of documents, on one device or several.

The scores of all pairs of a pass are computed in batches of similar length and then reordered, so
that a group is not padded to its longest document. The groups of a step are a pure function of
(seed, step): an interrupted run resumes from its checkpoint and gives the same result as an
uninterrupted one. With several processes each takes every n-th group of a step and gradients are
summed, so a step is the same on any number of processes, up to rounding.
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
import torch.distributed as distributed
from numpy.typing import NDArray
from torch import Tensor

from nightrank.models.text.batching import pack
from nightrank.storage.tokens import Tokens
from nightrank.training.checkpoints import TrainingState, restore_training, save, save_training
from nightrank.training.groups import Draw, Example, Source, plan_step
from nightrank.training.losses import Loss, group_loss
from nightrank.training.trainee import Trainee

log = logging.getLogger("nightrank.train")
MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Options:
    """The settings of the optimisation.

    Attributes:
        draw: the groups of a step.
        loss: listwise or margin.
        teacher_temperature: what a teacher's scores are divided by.
        learning_rate: the maximum rate; linear warm-up, then half a cosine down to zero.
        warmup_steps: steps of the warm-up.
        weight_decay: AdamW's decoupled decay.
        groups_per_pass: groups whose activations are in memory at once; gradients accumulate over
            the passes of a step.
        token_budget: padded tokens of one forward batch.
        bf16: autocast to bfloat16.
        time_limit_s: stop with a checkpoint after this many seconds of this process.
        checkpoint_every: steps between checkpoints, each with a dev evaluation.
        patience: stop after this many evaluations without a better one; 0 never stops early.
    """

    draw: Draw
    loss: Loss
    teacher_temperature: float
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    groups_per_pass: int
    token_budget: int
    bf16: bool
    time_limit_s: float
    checkpoint_every: int
    patience: int


def learning_rate(options: Options, step: int) -> float:
    """Linear warm-up, then half a cosine to zero at the last step."""
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / options.warmup_steps
    done = (step - options.warmup_steps) / max(1, options.draw.steps - options.warmup_steps)
    return options.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def score_pairs(
    trainee: Trainee,
    queries: Tokens,
    documents: Tokens,
    pairs: NDArray[np.int32],
    token_budget: int,
    bf16: bool,
) -> Tensor:
    """Raw scores of pairs, in their order; with gradients where they are enabled.

    Args:
        trainee: the network.
        queries: tokens of the queries.
        documents: tokens of the documents.
        pairs: int32 [n, 2], rows of both.
        token_budget: padded tokens of one batch.
        bf16: autocast to bfloat16.

    Returns:
        float32 [n], on the trainee's device.
    """
    inputs = trainee.assemble(queries, documents, pairs)
    batches = pack(inputs.lengths, token_budget)
    parts: list[Tensor] = []
    for rows in batches:
        batch = inputs.batch(rows)
        ids = torch.from_numpy(batch.input_ids)
        mask = None
        if int(batch.lengths.min()) < ids.shape[1]:
            mask = (torch.arange(ids.shape[1]) < torch.from_numpy(batch.lengths)[:, None]).long()
            mask = mask.to(trainee.device)
        with torch.autocast(trainee.device.type, dtype=torch.bfloat16, enabled=bf16):
            parts.append(trainee.forward(ids.to(trainee.device), mask, batch))
    order = torch.from_numpy(np.argsort(np.concatenate(batches))).to(trainee.device)
    return torch.cat(parts)[order]


def train(
    trainee: Trainee,
    sources: Sequence[Source],
    options: Options,
    *,
    folder: Path,
    evaluate: Callable[[], float] | None,
) -> TrainingState:
    """Runs or resumes a training, and keeps the checkpoint with the best dev score.

    Args:
        trainee: the network; it has the last step's weights afterwards.
        sources: what to train on.
        options: how.
        folder: gets `last.safetensors` (to resume from) and `best.safetensors` (the trained
            tensors); where several processes train, all must see it.
        evaluate: returns the dev score of the trainee's current weights, higher is better; called
            in the first process only, before the first step and at every checkpoint. Without it
            the last checkpoint counts as the best.
    """
    trainable = trainee.trainable()
    optimiser = _optimiser(trainable, options)
    state = TrainingState()
    last, best = folder / "last.safetensors", folder / "best.safetensors"

    def keep_if_best() -> None:
        score = _from_first(evaluate() if _rank() == 0 else 0.0) if evaluate else None
        is_best = state.add_evaluation(score)
        if score is not None and _rank() == 0:
            log.info("step %d: dev %.4f (best %.4f)", state.step, score, state.best_score)
        if is_best and _rank() == 0:
            save(best, dict(trainable))

    if last.exists():
        state = restore_training(last, trainee.network, optimiser)
        log.info("resuming at step %d", state.step)
    else:
        keep_if_best()
    began, earlier_seconds, first = time.monotonic(), state.wall_s, state.step
    earlier_pairs = state.pairs
    losses: list[float] = []
    for step in range(first, options.draw.steps):
        if 0 < options.patience <= state.worse:
            log.info("stopping: no better dev score in %d evaluations", state.worse)
            break
        rate = learning_rate(options, step)
        for parameters in optimiser.param_groups:
            parameters["lr"] = rate
        groups = plan_step(sources, options.draw, step)
        losses.append(_backward(trainee, groups, options, optimiser))
        torch.nn.utils.clip_grad_norm_(trainable.values(), MAX_GRADIENT_NORM)
        optimiser.step()
        state.step, state.pairs = step + 1, state.pairs + sum(len(g.documents) for g in groups)
        elapsed = time.monotonic() - began
        if (step + 1) % 10 == 0 and _rank() == 0:
            pace = elapsed / (step + 1 - first)
            left = pace * (options.draw.steps - step - 1) / 60
            log.info(
                f"step {step + 1}/{options.draw.steps} loss {np.mean(losses):.4f} rate {rate:.2e} "
                f"{pace:.2f} s/step {(state.pairs - earlier_pairs) / elapsed:.0f} pairs/s "
                f"ETA {left:.0f} min"
            )
            losses.clear()
        stop = _from_first(elapsed > options.time_limit_s)
        if (step + 1) % options.checkpoint_every == 0 or step + 1 == options.draw.steps or stop:
            keep_if_best()
            state.wall_s = earlier_seconds + time.monotonic() - began
            if _rank() == 0:
                save_training(last, trainable, optimiser, state)
            if stop:
                break
    return state


def _backward(
    trainee: Trainee,
    groups: Sequence[Example],
    options: Options,
    optimiser: torch.optim.Optimizer,
) -> float:
    """Computes the gradients of a step's mean loss over all processes; returns the loss."""
    trainee.network.train()
    optimiser.zero_grad(set_to_none=True)
    processes = distributed.get_world_size() if distributed.is_initialized() else 1
    own = groups[_rank() :: processes]
    total = 0.0
    for start in range(0, len(own), options.groups_per_pass):
        part = own[start : start + options.groups_per_pass]
        sizes = [len(group.documents) for group in part]
        rows = np.repeat(np.arange(len(part)), sizes)
        pairs = np.stack([rows, np.arange(len(rows))], axis=1).astype(np.int32)
        queries = Tokens.from_lists(group.query for group in part)
        documents = Tokens.from_lists(d for group in part for d in group.documents)
        budget, bf16 = options.token_budget, options.bf16
        scores = score_pairs(trainee, queries, documents, pairs, budget, bf16)
        settings = (options.loss, options.teacher_temperature)
        losses = [
            group_loss(of_group, group.targets, *settings)
            for of_group, group in zip(torch.split(scores, sizes), part, strict=True)
        ]
        loss = torch.stack(losses).sum() / len(groups)
        loss.backward()
        total += float(loss.detach())
    if processes > 1:
        for parameter in trainee.trainable().values():
            if parameter.grad is None:  # No group of this process uses it.
                parameter.grad = torch.zeros_like(parameter)
            distributed.all_reduce(parameter.grad)
        total_loss = torch.tensor(total, device=trainee.device)
        distributed.all_reduce(total_loss)
        total = float(total_loss)
    return total


def _optimiser(trainable: dict[str, torch.nn.Parameter], options: Options) -> torch.optim.AdamW:
    """AdamW with weight decay of matrices only."""
    decayed = [p for p in trainable.values() if p.ndim > 1]
    undecayed = [p for p in trainable.values() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate)


def _rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def _from_first(value: float) -> float:
    """The first process's value, on all processes."""
    if not distributed.is_initialized():
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]
