"""Fine-tuning of a cross-encoder on groups of documents, on one device or several.

Scores of all pairs of a pass are computed in batches of near-equal length, then gathered, so that
no group pays for its longest document. What a step trains on is a pure function of (seed, step): an
interrupted run resumes where its checkpoint stands and goes on as if nothing had happened. With
several processes each takes every n-th group of a step and gradients are summed, so a step is the
same step on any number of them, up to rounding.
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
from nightrank.training import checkpoints
from nightrank.training.groups import Draw, Example, Source, plan_step
from nightrank.training.losses import Loss, group_loss
from nightrank.training.trainee import Trainee

log = logging.getLogger("nightrank.train")
LARGEST_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Options:
    """Everything about the optimisation.

    Attributes:
        draw: what a step trains on.
        loss: listwise or margin.
        teacher_temperature: what a teacher's scores are divided by.
        learning_rate: the highest rate; linear warm-up, then half a cosine down to zero.
        warmup_steps: steps of the warm-up.
        weight_decay: AdamW's decoupled decay.
        groups_per_pass: groups whose activations are held at once; gradients accumulate over the
            passes of a step.
        token_budget: padded tokens of one forward batch.
        bf16: autocast to bfloat16.
        time_limit_s: stop (with a checkpoint) after so many seconds of this process.
        checkpoint_every: steps between checkpoints, each with a dev evaluation.
        patience: stop after so many evaluations without a better one; 0 never stops early.
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
    """Raw scores of pairs, in order; gradients flow when enabled.

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
        made = inputs.batch(rows)
        ids = torch.from_numpy(made.input_ids)
        mask = None
        if int(made.lengths.min()) < ids.shape[1]:
            mask = (torch.arange(ids.shape[1]) < torch.from_numpy(made.lengths)[:, None]).long()
            mask = mask.to(trainee.device)
        with torch.autocast(trainee.device.type, dtype=torch.bfloat16, enabled=bf16):
            parts.append(trainee.forward(ids.to(trainee.device), mask, made))
    order = torch.from_numpy(np.argsort(np.concatenate(batches))).to(trainee.device)
    return torch.cat(parts)[order]


def train(
    trainee: Trainee,
    sources: Sequence[Source],
    options: Options,
    *,
    folder: Path,
    evaluate: Callable[[], float] | None,
) -> dict[str, Any]:
    """Runs (or goes on with) a training, keeping the best checkpoint by dev score.

    Args:
        trainee: left at the last step's weights.
        sources: what to train on.
        options: how.
        folder: takes `last.safetensors` (to resume) and `best.safetensors` (the trainable
            tensors); where several processes train, all must see it.
        evaluate: the dev score of the trainee as it stands, higher is better; asked on the first
            process only, before the first step and at every checkpoint. Without it the last
            checkpoint counts as the best.

    Returns:
        step, best_step (0 where no training was better), worse (evaluations since the best),
        wall_s (of all runs) and pairs; with `evaluate` first_score (before the first step) and
        best_score.
    """
    trainable = trainee.trainable()
    optimiser = _optimiser(trainable, options)
    state: dict[str, Any] = {"step": 0, "wall_s": 0.0, "pairs": 0, "worse": 0}
    last, best = folder / "last.safetensors", folder / "best.safetensors"

    def look() -> None:
        """Evaluates the trainee as it stands and keeps it if it is the best so far."""
        better = True
        if evaluate:
            score = _agreed(evaluate() if _rank() == 0 else 0.0)
            better = score > state.get("best_score", -1.0)
            state.setdefault("first_score", score)
            state.update({"best_score": score} if better else {})
            if _rank() == 0:
                now, most = state["step"], state["best_score"]
                log.info("step %d: dev %.4f (best %.4f)", now, score, most)
        state.update({"best_step": state["step"]} if better else {})
        state["worse"] = 0 if better else state["worse"] + 1
        if better and _rank() == 0:
            checkpoints.save(best, trainable)

    if last.exists():
        tensors, facts = checkpoints.load(last)
        remembered = {n.removeprefix("/"): t for n, t in tensors.items() if n.startswith("/")}
        weights = {n: t for n, t in tensors.items() if not n.startswith("/")}
        trainee.network.load_state_dict(weights, strict=False)
        checkpoints.restore_optimiser(optimiser, remembered, facts["optimiser"])
        state = facts["state"]
        log.info("resuming at step %d", state["step"])
    else:
        look()
    begun, earlier, first = time.monotonic(), float(state["wall_s"]), int(state["step"])
    before = int(state["pairs"])
    window: list[float] = []
    for step in range(first, options.draw.steps):
        if 0 < options.patience <= state["worse"]:
            log.info("stopping: no better dev score in %d evaluations", state["worse"])
            break
        rate = learning_rate(options, step)
        for parameters in optimiser.param_groups:
            parameters["lr"] = rate
        groups = plan_step(sources, options.draw, step)
        window.append(_backward(trainee, groups, options, optimiser))
        torch.nn.utils.clip_grad_norm_(trainable.values(), LARGEST_GRADIENT_NORM)
        optimiser.step()
        state |= {"step": step + 1, "pairs": state["pairs"] + sum(len(g.documents) for g in groups)}
        elapsed = time.monotonic() - begun
        if (step + 1) % 10 == 0 and _rank() == 0:
            pace = elapsed / (step + 1 - first)
            left = pace * (options.draw.steps - step - 1) / 60
            log.info(
                f"step {step + 1}/{options.draw.steps} loss {np.mean(window):.4f} rate {rate:.2e} "
                f"{pace:.2f} s/step {(state['pairs'] - before) / elapsed:.0f} pairs/s "
                f"ETA {left:.0f} min"
            )
            window.clear()
        stop = _agreed(elapsed > options.time_limit_s)
        if (step + 1) % options.checkpoint_every == 0 or step + 1 == options.draw.steps or stop:
            look()
            state |= {"wall_s": earlier + time.monotonic() - begun}
            if _rank() == 0:
                tensors, groups = checkpoints.optimiser_tensors(optimiser)
                whole = {**trainable, **{f"/{name}": t for name, t in tensors.items()}}
                checkpoints.save(last, whole, {"optimiser": groups, "state": state})
            if stop:
                break
    return dict(state)


def _backward(
    trainee: Trainee,
    groups: Sequence[Example],
    options: Options,
    optimiser: torch.optim.Optimizer,
) -> float:
    """Gradients of the mean loss of a step's groups, over all processes; gives the loss."""
    trainee.network.train()
    optimiser.zero_grad(set_to_none=True)
    processes = distributed.get_world_size() if distributed.is_initialized() else 1
    mine = groups[_rank() :: processes]
    total = 0.0
    for start in range(0, len(mine), options.groups_per_pass):
        part = mine[start : start + options.groups_per_pass]
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
            if parameter.grad is None:  # This process had no group that reaches it.
                parameter.grad = torch.zeros_like(parameter)
            distributed.all_reduce(parameter.grad)
        summed = torch.tensor(total, device=trainee.device)
        distributed.all_reduce(summed)
        total = float(summed)
    return total


def _optimiser(trainable: dict[str, Any], options: Options) -> torch.optim.AdamW:
    """AdamW, decaying matrices only."""
    decayed = [p for p in trainable.values() if p.ndim > 1]
    kept = [p for p in trainable.values() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate)


def _rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def _agreed(value: float) -> float:
    """The first process's value, on all of them."""
    if not distributed.is_initialized():
        return value
    shared = [value]
    distributed.broadcast_object_list(shared)
    return shared[0]
