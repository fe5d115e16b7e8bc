"""Losses over groups of scores, one query each: listwise and margin, from labels or a teacher.

| loss | labelled group (document 0 is relevant) | group with a teacher's scores t |
|---|---|---|
| listwise | -log softmax(s)_0 | cross-entropy of softmax(s) to softmax(t / temperature) |
| margin | mean_i max(0, 1 - (s_0 - s_i)) | mean_i ((s_0 - s_i) - (t_0 - t_i) / temperature)^2 |

The listwise form on labels is the localised contrastive loss of Gao et al. (2021); the margin form
on a teacher is MarginMSE of Hofstätter et al. (2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Loss = Literal["listwise", "margin"]


def group_loss(scores: Tensor, targets: Sequence[float], loss: Loss, temperature: float) -> Tensor:
    """The loss of one group.

    Args:
        scores: float32 [n], n at least 2; the relevant document's first, or the teacher's best.
        targets: n scores of the teacher; empty for a labelled group.
        loss: listwise or margin.
        temperature: what the teacher's scores are divided by.

    Returns:
        float32 [], at least 0; a cross-entropy is at least the entropy of its targets.
    """
    if loss == "listwise":
        if not targets:
            return scores.logsumexp(0) - scores[0]
        teacher = torch.tensor(targets, device=scores.device) / temperature
        return -(teacher.softmax(0) * scores.log_softmax(0)).sum()
    margins = scores[0] - scores[1:]
    if not targets:
        return (1.0 - margins).clamp(min=0.0).mean()
    teacher = torch.tensor(targets, device=scores.device) / temperature
    return (margins - (teacher[0] - teacher[1:])).square().mean()
