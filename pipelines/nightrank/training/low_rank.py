"""A model as a small difference to published weights.

Every linear layer's difference is low rank, ``W = W0 + scale * up @ down`` (LoRA, Hu et al. 2021);
every small tensor (biases, layer norms, the head) has its whole difference. Training uses
`LowRankLinear`, the written files come from `export_delta`, and `reranker_tensors.merge_delta` adds
them to the published weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nightrank.models.engines.reranker_tensors import DOWN, PLUS, UP

LARGEST_WHOLE_TENSOR = 4096  # elements; anything larger is low rank or frozen


class LowRankLinear(nn.Module):
    """A linear layer with a trainable low-rank difference to its weight, and a trainable bias.

    The weights are summed before the product: at rank 64 of 384 that costs less than two further
    thin products for each token.

    Args:
        linear: the layer to wrap; its weight is frozen.
        rank: columns of `up`.
        scale: factor of the product.
        generator: draws the initial `down`; `up` is zero at first, so training starts from W0.
    """

    def __init__(
        self, linear: nn.Linear, rank: int, scale: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().clone(), requires_grad=False)
        self.bias = nn.Parameter(linear.bias.detach().clone())
        bound = 1.0 / math.sqrt(linear.in_features)
        down = torch.empty(rank, linear.in_features).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))
        self.scale = scale

    def forward(self, inputs: Tensor) -> Tensor:
        """``inputs @ (W0 + scale * up @ down).T + bias``; [..., in] to [..., out]."""
        with torch.autocast(inputs.device.type, enabled=False):
            weight = torch.addmm(self.weight, self.up, self.down, alpha=self.scale)
        return nn.functional.linear(inputs, weight, self.bias)


def make_trainable(model: nn.Module, rank: int, scale: float, seed: int) -> None:
    """Replaces every linear layer by a `LowRankLinear`, and freezes large embeddings.

    Args:
        model: changed in place.
        rank: rank of every difference.
        scale: factor of every product.
        seed: fixes the initial values.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.numel() <= LARGEST_WHOLE_TENSOR)
    linears = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    for name, linear in linears:
        owner, _, attribute = name.rpartition(".")
        wrapped = LowRankLinear(linear, rank, scale, generator)
        setattr(model.get_submodule(owner), attribute, wrapped)


def export_delta(model: nn.Module, initial: dict[str, Tensor]) -> dict[str, Tensor]:
    """The trained difference, in float16.

    Args:
        model: prepared by `make_trainable`.
        initial: `state_dict` of the same model before training, by the same names.

    Returns:
        ``<layer>.down`` [rank, in] and ``<layer>.up`` [out, rank] for linear layers, and
        ``<tensor>.plus`` for whole tensors, all float16.
    """
    delta: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.endswith((DOWN, UP)):
            delta[name] = parameter.detach().half().contiguous()
        else:
            delta[name + PLUS] = (parameter.detach() - initial[name]).half().contiguous()
    return delta


def load_delta(model: nn.Module, delta: dict[str, Tensor]) -> None:
    """Loads a trained difference into a prepared model, to continue its training.

    Args:
        model: prepared by `make_trainable` with the difference's rank and scale, and not trained.
        delta: from `export_delta`.
    """
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in delta.items():
            if name.endswith(PLUS):
                parameters[name.removesuffix(PLUS)] += tensor.float()
            else:
                parameters[name].copy_(tensor)


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a trained model under the names it had before `make_trainable`.

    Args:
        model: prepared by `make_trainable`, or any other, whose state is returned unchanged.
    """
    state = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, LowRankLinear):
            up, down = state.pop(f"{name}{UP}"), state.pop(f"{name}{DOWN}")
            state[f"{name}.weight"] = state[f"{name}.weight"] + module.scale * (up @ down)
    return state
