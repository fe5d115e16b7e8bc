"""Checkpoints of a training: safetensors with plain data in the header, and no pickles."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


@dataclass
class TrainingState:
    """How far a training has come.

    Attributes:
        step: steps done.
        pairs: pairs scored.
        wall_s: seconds of all runs of the training, up to the last checkpoint.
        worse: evaluations since the best one.
        best_step: step of the best weights; 0 where no step has improved on the base.
        first_score: the dev score before the first step; None without dev queries.
        best_score: the best dev score; None without dev queries.
    """

    step: int = 0
    pairs: int = 0
    wall_s: float = 0.0
    worse: int = 0
    best_step: int = 0
    first_score: float | None = None
    best_score: float | None = None

    def add_evaluation(self, score: float | None) -> bool:
        """Records an evaluation and returns whether it is the best so far.

        Args:
            score: the dev score; None counts as the best.
        """
        is_best = score is None or self.best_score is None or score > self.best_score
        if self.first_score is None:
            self.first_score = score
        if is_best:
            self.best_step, self.best_score = self.step, score
        self.worse = 0 if is_best else self.worse + 1
        return is_best

    def to_dict(self) -> dict[str, int | float]:
        """The attributes that are not None, JSON-able."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def save(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any] | None = None) -> None:
    """Writes a temporary file and renames it, so that an interruption leaves the old checkpoint.

    Args:
        path: of the checkpoint.
        tensors: by name.
        facts: JSON-able data.
    """
    temporary = path.with_suffix(".tmp")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, str(temporary), metadata={"facts": json.dumps(facts or {})})
    temporary.replace(path)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the facts of a checkpoint."""
    with safe_open(str(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["facts"])


def save_training(
    path: Path,
    trainable: dict[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    state: TrainingState,
) -> None:
    """Writes everything that `restore_training` needs.

    Args:
        path: of the checkpoint.
        trainable: the trained parameters, by name.
        optimiser: of these parameters; its tensors are stored as `/<parameter>/<name>`.
        state: of the training.
    """
    optimiser_state = optimiser.state_dict()
    tensors: dict[str, Tensor] = dict(trainable)
    for number, kept in optimiser_state["state"].items():
        tensors |= {f"/{number}/{name}": tensor for name, tensor in kept.items()}
    groups = optimiser_state["param_groups"]
    save(path, tensors, {"optimiser": groups, "state": state.to_dict()})


def restore_training(
    path: Path, network: nn.Module, optimiser: torch.optim.Optimizer
) -> TrainingState:
    """Loads a checkpoint of `save_training` into a network and its optimiser; returns the state."""
    tensors, facts = load(path)
    kept: dict[int, dict[str, Tensor]] = {}
    weights: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith("/"):
            number, _, field = name.removeprefix("/").partition("/")
            kept.setdefault(int(number), {})[field] = tensor
        else:
            weights[name] = tensor
    network.load_state_dict(weights, strict=False)
    optimiser.load_state_dict({"state": kept, "param_groups": facts["optimiser"]})
    return TrainingState(**facts["state"])
