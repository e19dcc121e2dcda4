"""Log-probabilities of responses under a model."""

from __future__ import annotations

from torch import Tensor, nn

from rationale.data.encode import Batch
from rationale.objectives.logprobs import token_logps


def response_logps(model: nn.Module, batch: Batch) -> Tensor:
    """log p of every response token, (B, R) float32, 0 where padded.

    The LM head runs on the last R + 1 positions only: prompt and image tokens never reach the vocabulary.
    """
    width = batch.labels.shape[1]
    logits = model(**batch.inputs, logits_to_keep=width + 1, use_cache=False).logits
    return token_logps(logits[:, :-1], batch.labels)
