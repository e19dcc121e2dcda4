"""Log-probabilities of labels, per token and per sequence."""

from __future__ import annotations

import torch
from torch import Tensor

IGNORE = -100


def token_logps(logits: Tensor, labels: Tensor) -> Tensor:
    """log p(label) at each position; 0 where the label is -100.

    logits (..., T, V) and labels (..., T) are aligned: logits at t score labels[t]. Whoever holds a whole sequence
    calls `shifted` first. Returns (..., T), float32 whatever the dtype of the logits.
    """
    masked = labels == IGNORE
    # Only -100 is replaced, so any other negative label (an image placeholder, say) fails in gather.
    chosen = logits.gather(-1, labels.masked_fill(masked, 0).unsqueeze(-1)).squeeze(-1)
    logps = chosen.float() - torch.logsumexp(logits.float(), dim=-1)
    return logps.masked_fill(masked, 0.0)


def shifted(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Aligned views of a whole sequence, (B, T-1, V) and (B, T-1): position t predicts labels[:, t + 1]."""
    return logits[:, :-1], labels[:, 1:]


def sequence_logps(token_logps: Tensor, mask: Tensor, average: bool = False) -> Tensor:
    """Sum, or mean if `average`, of log p over the tokens where mask (B, T) is true. Returns (B,).

    A row without such a token gives 0 either way.
    """
    mask = mask.bool()
    total = token_logps.masked_fill(~mask, 0.0).sum(-1)
    return total / mask.sum(-1).clamp(min=1) if average else total
