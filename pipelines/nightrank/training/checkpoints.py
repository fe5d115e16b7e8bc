"""Checkpoints of a training: safetensors with plain data in the header, and no pickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


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


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> tuple[dict[str, Tensor], Any]:
    """An optimiser's state: tensors as `<parameter>/<name>`, and its parameter groups."""
    state = optimiser.state_dict()
    tensors = {f"{i}/{n}": t for i, kept in state["state"].items() for n, t in kept.items()}
    return tensors, state["param_groups"]


def restore_optimiser(
    optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor], groups: Any
) -> None:
    """The inverse of `optimiser_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, what = name.partition("/")
        state.setdefault(int(number), {})[what] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": groups})
