"""The built-in reranker's network: a BERT encoder over the pair, and a late-interaction head.

The head scores a pair from the encoder's last layer h (one vector per token)::

    score = exp(a) * sum_i u_i * max_j cos(h_i, h_j)  +  v . tanh(W h_[CLS] + b)

where i runs over the query's tokens, j over the document's tokens and its final [SEP], and
u = softmax_i(w . h_i) weighs the query's tokens. The first term is ColBERT's MaxSim (Khattab and
Zaharia, 2020) on vectors that depend on both texts; it ranks well before any training because the
encoder was trained to place matching texts close to each other, so a few thousand examples are
enough to improve on it. The second term is the usual [CLS] head and starts at zero.

Knows nothing about tokenizers, files or batches.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class InteractionReranker(nn.Module):
    """Pairs of token ids to raw scores; `reranker_tensors` has its values before training.

    Args:
        encoder: a BERT encoder without its pooling layer.
        hidden: width of the encoder's vectors.
    """

    def __init__(self, encoder: nn.Module, hidden: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.transform = nn.Linear(hidden, hidden)
        self.cls_weight = nn.Parameter(torch.zeros(hidden))
        self.importance = nn.Parameter(torch.zeros(hidden))
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        query_lengths: Tensor,
        lengths: Tensor,
    ) -> Tensor:
        """Scores a batch of spliced pairs ``[CLS] query [SEP] document [SEP]``.

        Args:
            input_ids: int64 [n, length], padded on the right.
            attention_mask: int64 [n, length], or None when no row is padded.
            query_lengths: int64 [n], tokens of the query, special tokens not counted.
            lengths: int64 [n], tokens of the whole pair, special tokens counted.

        Returns:
            float32 [n], raw scores.
        """
        position = torch.arange(input_ids.shape[1], device=input_ids.device)
        document_start = query_lengths[:, None] + 2
        hidden = self.encoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=(position >= document_start).long(),
        ).last_hidden_state
        with torch.autocast(hidden.device.type, enabled=False):
            longest = int(query_lengths.max())
            return self.head(hidden.float(), query_lengths, lengths, longest)

    def head(self, hidden: Tensor, query_lengths: Tensor, lengths: Tensor, longest: int) -> Tensor:
        """The formula above; float32 [n, length, hidden] to float32 [n].

        `longest` is the largest of `query_lengths`, as an argument to avoid a read from the device.
        """
        position = torch.arange(hidden.shape[1], device=hidden.device)
        document = (position >= query_lengths[:, None] + 2) & (position < lengths[:, None])
        width = longest + 1
        # [CLS] represents an empty query, so that no softmax runs over nothing.
        in_query = (position[:width] >= 1) & (position[:width] <= query_lengths[:, None])
        in_query[:, 0] |= query_lengths == 0

        unit = nn.functional.normalize(hidden, dim=-1)
        cosine = unit[:, :width] @ unit.transpose(1, 2)
        best = cosine.masked_fill(~document[:, None, :], -1.0).amax(dim=-1)
        weight = (hidden[:, :width] @ self.importance.float()).masked_fill(~in_query, -torch.inf)
        matched = (weight.softmax(dim=-1) * best).sum(dim=-1)

        summary = torch.tanh(
            nn.functional.linear(
                hidden[:, 0], self.transform.weight.float(), self.transform.bias.float()
            )
        )
        return self.log_scale.float().exp() * matched + summary @ self.cls_weight.float()
