"""The built-in reranker as a torch network, and the files of its difference."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertConfig, BertModel

from nightrank.models.engines.bert import Float32
from nightrank.models.engines.interaction import InteractionReranker
from nightrank.models.engines.reranker_tensors import initial_tensors, trained_tensors
from nightrank.models.folders.builtin import DELTA, PUBLISHED, WEIGHTS, RerankerConfig
from nightrank.models.folders.files import file_digest


def build_reranker(base: Path) -> InteractionReranker:
    """The untrained network, float32, in evaluation mode.

    Args:
        base: folder of the published bi-encoder (config.json, model.safetensors).
    """
    return _network(base, initial_tensors(base))


def load_reranker(base: Path, delta: Path) -> InteractionReranker:
    """The trained network, float32, in evaluation mode.

    Args:
        base: folder of the published bi-encoder.
        delta: folder of the difference.
    """
    return _network(base, trained_tensors(base, delta))


def _network(base: Path, tensors: dict[str, Float32]) -> InteractionReranker:
    config = BertConfig.from_pretrained(base)
    # Two passes over some ten thousand groups do not overfit 2.7 M parameters, and dropout prevents
    # the fused attention kernel.
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    model = InteractionReranker(BertModel(config, add_pooling_layer=False), config.hidden_size)
    model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})
    return model.eval()


def write_reranker(
    folder: Path,
    delta: dict[str, Tensor],
    rank: int,
    scale: float,
    max_length_tokens: int,
    first_stage_weight: float,
) -> RerankerConfig:
    """Writes a difference and its config.json, in the form that this package contains.

    Args:
        folder: created if missing; existing files of these names are replaced.
        delta: from `low_rank.export_delta`.
        rank: rank it was trained with.
        scale: scale it was trained with.
        max_length_tokens: tokens of a pair in training.
        first_stage_weight: the weight to recommend.

    Returns:
        The configuration as written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file(delta, folder / DELTA)
    (folder / DELTA).chmod(0o644)  # safetensors makes it readable by its owner only
    config = RerankerConfig(
        base_sha256=PUBLISHED[WEIGHTS],
        delta_sha256=file_digest(folder / DELTA),
        rank=rank,
        scale=scale,
        max_length_tokens=max_length_tokens,
        recommended_first_stage_weight=first_stage_weight,
    )
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    return config
