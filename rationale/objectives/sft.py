"""Supervised fine-tuning: negative log-likelihood of the response tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from rationale.objectives.logprobs import sequence_logps

REDUCTIONS = ("token", "sequence")


def sft_loss(
    token_logps: Tensor, mask: Tensor, denominator: Tensor | float | None = None, reduction: str = "token"
) -> Tensor:
    """Negative log-likelihood of the tokens where mask (B, T) is true; a scalar, 0 where there are none.

    `token` weighs every response token alike, `sequence` every response (the mean of its tokens) alike.
    `denominator` counts what is averaged over in the whole optimizer step: its response tokens, or its responses.
    The losses of the micro-batches then add up to the step's loss, however the batch was cut. Without it the count
    is this batch's own.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"no reduction {reduction!r}; known: {', '.join(REDUCTIONS)}")
    mask = mask.bool()
    nll = -sequence_logps(token_logps, mask, average=reduction == "sequence").sum()
    if denominator is None:
        denominator = mask.sum() if reduction == "token" else mask.any(-1).sum()
    count = torch.as_tensor(denominator, dtype=nll.dtype, device=nll.device)
    # Not clamp(min=1): a step's count divided by the number of ranks may lie between 0 and 1.
    return nll / count.masked_fill(count == 0, 1.0)
