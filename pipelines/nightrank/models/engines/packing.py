"""Packed batches, whose rows are concatenated instead of padded: attention and the last layer.

Each token attends to the tokens of its row (`torch.nn.attention.varlen`) through transformers'
attention interface, so that networks run with their library's code.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from nightrank.models.engines.bert import KINDS
from nightrank.models.hardware import can_compile

VARLEN = "nightrank_varlen"
# Decoders that use only causal attention with shared heads.
DECODERS = ("llama", "mistral", "qwen2", "qwen3")
log = logging.getLogger(__name__)


def can_pack(encoder: nn.Module) -> bool:
    """Whether a network can run packed: only known ones, in half precision, without windows.

    The kernel supports half precision and heads of 8 to 256 in steps of 8. It would silently ignore
    other features of attention: capped logits in Gemma 2, sinks in gpt-oss, the sliding window of
    the first Mistral 7B, a decoder with bidirectional attention.
    """
    half = next(encoder.parameters()).dtype in (torch.float16, torch.bfloat16)
    config: Any = getattr(encoder, "config", None)
    kind = getattr(config, "model_type", None)
    if kind not in (*KINDS, *DECODERS) or not half:
        return False
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    is_plain = getattr(config, "is_causal", True) and not getattr(config, "is_decoder", False)
    window = getattr(config, "sliding_window", None) is not None
    return is_plain and not window and head % 8 == 0 and head <= 256


def use_varlen(encoder: nn.Module) -> None:
    """Switches a transformers model to packed attention.

    For an implementation that takes no masks transformers builds none; for one with masks it reads
    the positions, and the host would wait for the device in every batch.
    """
    AttentionInterface.register(VARLEN, varlen_attention)
    encoder.set_attn_implementation(VARLEN)  # type: ignore[operator]


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    cu_seq_lens: Tensor,
    longest: int,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention within concatenated rows, for transformers' interface.

    Args:
        module: the layer, whose `is_causal` says whether a token attends only to earlier ones.
        query: [1, heads, tokens, head width].
        key: as `query`; it may have fewer heads, each of them shared.
        value: as `key`.
        attention_mask: none in packed rows.
        scaling: of the scores.
        dropout: none in inference.
        cu_seq_lens: int32 [rows + 1], the start of each row.
        longest: tokens of the longest row.
        **kwargs: arguments of other implementations.

    Returns:
        [1, tokens, heads, head width], and no weights.
    """
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    window = (-1, 0) if getattr(module, "is_causal", False) else (-1, -1)
    mixed = _attend(q, k, v, cu_seq_lens, cu_seq_lens, longest, longest, scaling, window)
    return mixed[None], None


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_starts: Tensor,
    k_starts: Tensor,
    q_longest: int,
    k_longest: int,
    scale: float | None,
    window: tuple[int, int] = (-1, -1),
) -> Tensor:
    # One split of the keys: the number of splits depends on the longest row, and a row's result
    # must not depend on the other rows.
    mixed: Tensor = varlen_attn(
        q,
        k,
        v,
        q_starts,
        k_starts,
        q_longest,
        k_longest,
        scale=scale,
        window_size=window,
        enable_gqa=True,
        num_splits=1,
    )
    return mixed


class FirstTokens(nn.Module):
    """The last layer of a BERT-like network, computed for each row's first token only.

    Args:
        layer: transformers' BertLayer, or RoBERTa's, which has the same parts.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(
        self, hidden: Tensor, *args: Any, cu_seq_lens: Tensor, longest: int, **kwargs: Any
    ) -> Tensor:
        """[1, tokens, width] to [1, rows, width]."""
        attention = self.layer.attention.self
        first = hidden[:, cu_seq_lens[:-1].long()]
        query_starts = torch.arange(len(cu_seq_lens), device=hidden.device, dtype=torch.int32)
        shape = (-1, attention.num_attention_heads, attention.attention_head_size)
        q = attention.query(first).view(shape)
        k, v = attention.key(hidden).view(shape), attention.value(hidden).view(shape)
        scale = attention.scaling
        mixed = _attend(q, k, v, query_starts, cu_seq_lens, 1, longest, scale)
        attended = self.layer.attention.output(mixed.reshape(first.shape), first)
        outputs: Tensor = self.layer.output(self.layer.intermediate(attended), attended)
        return outputs


def keep_first_tokens(encoder: Any) -> None:
    """Lets a network of `bert.KINDS` return [1, rows, width]: 14 % fewer operations in 6 layers."""
    encoder.encoder.layer[-1] = FirstTokens(encoder.encoder.layer[-1])


def compile_layers(encoder: nn.Module) -> None:
    """Compiles the layers of a network, at its first batch, for any number of tokens.

    Each layer separately, since equal layers share the compiled code. The operations between a
    layer's products then take one pass over the memory instead of five to ten.
    """
    if not can_compile():
        log.warning(
            "no C compiler, which torch.compile needs: models run slower, without compilation"
        )
        return
    # A layer that fails to compile runs uncompiled: that costs time, not the run.
    torch._dynamo.config.suppress_errors = True
    for layer in encoder.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.compile(dynamic=True)
