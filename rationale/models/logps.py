"""Log-probabilities of responses under a model."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rationale.models.batch import Batch
from rationale.models.families import base_of, can_share
from rationale.models.prefix import head_logps, tree_inputs
from rationale.objectives.logprobs import token_logps


def computing(precision: str, device: torch.device) -> AbstractContextManager:
    """The context in which Lightning runs a model under its `precision`: autocast where that is mixed."""
    kind = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    return nullcontext() if kind is None else torch.autocast(device.type, kind)


def response_logps(model: nn.Module, batch: Batch) -> Tensor:
    """log p of every response token, (N, R) float32, 0 where padded; the same in both layouts.

    The LM head runs on the tokens that predict a response only, and in tiles: prompt and image tokens never reach the
    vocabulary, and no tokens x vocabulary tensor exists whole.
    """
    inputs = batch.inputs if batch.segments is None else tree_inputs(model, batch)
    if not can_share(model):  # a family whose head may do more than multiply: its own forward, in plain rows
        logits = model(**inputs, logits_to_keep=batch.labels.shape[1] + 1, use_cache=False).logits
        return token_logps(logits[:, :-1], batch.labels)
    base, mask = base_of(model), batch.mask
    hidden = base.model(**inputs, use_cache=False).last_hidden_state
    # Branches begin after one token, whose gradient is a sum. That of an indexed tensor adds up in any order, so that
    # two runs differ in the last bit; that of a look-up has one order.
    predicting = F.embedding(batch.sources[mask], hidden.flatten(0, 1))
    logps = head_logps(base.get_output_embeddings(), predicting, batch.labels[mask])
    return logps.new_zeros(mask.shape).masked_scatter(mask, logps)
