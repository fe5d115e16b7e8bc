"""Builds the built-in reranker's network from MiniLM's published weights and our difference.

The only place that knows which published tensors the network takes: the encoder as it is, and the
pooler as the start of the head's [CLS] transform.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertModel

from pipelines.models.builtin import (
    DELTA,
    PUBLISHED,
    WEIGHTS,
    RerankerConfig,
    read_reranker_config,
)
from pipelines.models.folders import file_digest
from pipelines.models.interaction import InteractionReranker
from pipelines.models.low_rank import merge_delta

POOLER = "pooler.dense."


def build_reranker(base: Path) -> InteractionReranker:
    """The untrained network, float32, in evaluation mode.

    Args:
        base: folder of the published bi-encoder (config.json, model.safetensors).
    """
    config = BertConfig.from_pretrained(base)
    # Two passes over a few ten thousand groups do not overfit 2.7 M parameters, and dropout keeps
    # the fused attention kernel from being used.
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    model = InteractionReranker(BertModel(config, add_pooling_layer=False), config.hidden_size)
    published = load_file(base / WEIGHTS)
    state = model.state_dict()
    for name, tensor in published.items():
        target = f"encoder.{name}"
        if name.startswith(POOLER):
            target = f"transform.{name.removeprefix(POOLER)}"
        if target in state:
            state[target] = tensor.to(torch.float32)
    model.load_state_dict(state)
    return model.eval()


def load_reranker(base: Path, delta: Path) -> InteractionReranker:
    """The trained network, float32, in evaluation mode.

    Args:
        base: folder of the published bi-encoder.
        delta: folder of the shipped difference.
    """
    model = build_reranker(base)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = read_reranker_config(delta)
    merge_delta(state, load_file(delta / DELTA), config.scale)
    model.load_state_dict(state)
    return model.eval()


def write_reranker(
    folder: Path,
    delta: dict[str, Tensor],
    rank: int,
    scale: float,
    max_length_tokens: int,
    first_stage_weight: float,
) -> RerankerConfig:
    """Writes a difference and its config.json, as the package ships them.

    Args:
        folder: taken as it is; existing files of these names are replaced.
        delta: what `low_rank.export_delta` gave.
        rank: rank it was trained with.
        scale: scale it was trained with.
        max_length_tokens: tokens of a pair in training.
        first_stage_weight: what to recommend.

    Returns:
        The configuration as written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file(delta, folder / DELTA)
    (folder / DELTA).chmod(0o644)  # safetensors leaves it readable by its owner only
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
