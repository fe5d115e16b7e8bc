"""The built-in reranker's network as a Hugging Face model; exported folders carry this file.

Transformers has no architecture with a late-interaction head, so an exported folder contains the
code: this file and `interaction.py`, which import only torch, transformers and each other. Loading
it needs `trust_remote_code=True`; its `model_type` is unknown to transformers, so that without the
flag the folder is refused instead of read as another architecture.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .interaction import InteractionReranker

SPECIAL_TOKENS_OF_QUERY = 2  # [CLS] before, [SEP] after; both have token type 0


class NightrankConfig(BertConfig):
    """A BERT encoder's configuration with its own `model_type`."""

    model_type = "nightrank_reranker"


class NightrankReranker(PreTrainedModel):
    """Pairs to one logit each, the raw score; see `interaction`.

    Args:
        config: of the encoder.
    """

    config_class = NightrankConfig
    base_model_prefix = "network"

    def __init__(self, config: NightrankConfig) -> None:
        super().__init__(config)
        encoder = BertModel(config, add_pooling_layer=False)
        self.network = InteractionReranker(encoder, config.hidden_size)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **unused: Any,
    ) -> SequenceClassifierOutput:
        """Scores pairs ``[CLS] query [SEP] document [SEP]``, padded on the right.

        Args:
            input_ids: int64 [n, length].
            attention_mask: int64 [n, length]; None where no row is padded.
            token_type_ids: int64 [n, length], 0 for the query; they separate it from the document.
            unused: further arguments that callers pass to any model.

        Returns:
            With `logits` float32 [n, 1].
        """
        if token_type_ids is None:
            raise ValueError("token_type_ids are needed: they separate query and document")
        inside = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        queries = ((token_type_ids == 0) & (inside > 0)).sum(dim=1) - SPECIAL_TOKENS_OF_QUERY
        scores = self.network(input_ids, attention_mask, queries, inside.sum(dim=1))
        return SequenceClassifierOutput(logits=scores[:, None])
