"""Prompts read once into a cache, then more tokens after each: what decoding and scoring without gradient stand on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rationale.models.batch import Batch, Example, padded, rows_about
from rationale.models.cache import SharedCache
from rationale.models.device import moved, pinned
from rationale.models.encode import Encoder
from rationale.models.logps import response_logps
from rationale.models.prefix import after, base_of, can_copy, can_share, head_logps, own_positions, shares


@dataclass(slots=True)
class Prefilled:
    """Prompts that were read: their cache, the logits that follow each, its mask and the next position, (B, 1)."""

    cache: Any
    logits: Tensor
    mask: Tensor
    position: Tensor
    axes: int  # of a position: 1, or 3 where images have rows and columns

    def repeated(self, rows: Tensor) -> Prefilled:
        """The given rows, each as often as it is named."""
        self.cache.reorder_cache(rows)
        return Prefilled(self.cache, self.logits[rows], self.mask[rows], self.position[rows], self.axes)

    def then(self, tokens: Tensor, present: Tensor, positions: Tensor) -> dict[str, Any]:
        """A model's keyword arguments for `tokens` (R, n) at `positions` (R, n) after what was read; the mask grows by
        `present` (R, n), which says what of them is no padding."""
        self.mask = torch.cat([self.mask, present.to(self.mask.dtype)], 1)
        more: dict[str, Any] = {"attention_mask": self.mask}
        if isinstance(self.cache, SharedCache):
            more = {"attention_mask": self.cache.seen(self.mask, tokens.shape[1]), "shared": self.cache}
        at = positions if self.axes == 1 else positions.expand(3, -1, -1)
        return {"input_ids": tokens, "past_key_values": self.cache, "use_cache": True, "position_ids": at, **more}


def prefill(model: nn.Module, inputs: dict[str, Tensor]) -> Prefilled:
    """Each left-padded prompt and its image, read once."""
    positions = own_positions(model, inputs)
    out = model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1)
    axes, mask, cache = 3 if positions.ndim == 3 else 1, inputs["attention_mask"], out.past_key_values
    if shares(model):
        cache = SharedCache([(layer.keys, layer.values) for layer in cache.layers], mask.bool())
    return Prefilled(cache, out.logits[:, -1].float(), mask, after(positions), axes)


def read_on(model: nn.Module, read: Prefilled, rests: list[list[int]]) -> Prefilled:
    """What was read, with some more tokens after each row."""
    tokens, present = padded(rests, 0, left=True), padded([[1] * len(rest) for rest in rests], 0, left=True)
    tokens, present = tokens.to(model.device), present.to(model.device)
    given = read.then(tokens, present, read.position + (present.cumsum(1) - 1).clamp(min=0))
    logits = model(**given, logits_to_keep=1).logits[:, -1].float()
    return Prefilled(read.cache, logits, read.mask, read.position + present.sum(1, keepdim=True), read.axes)


@torch.no_grad()
def trained_logps(
    model: nn.Module, encoder: Encoder, examples: Sequence[Example], batch: Batch | None = None
) -> list[list[float]]:
    """log p of the response tokens of each example by the forward pass of training. `batch` is theirs, where it was
    made ahead."""
    batch = (batch or encoder.batch(examples)).to(model.device)
    found, lengths = response_logps(model, batch).cpu(), batch.mask.sum(1).tolist()
    return [row[:n].tolist() for row, n in zip(found, lengths, strict=True)]


Candidates = tuple[dict[str, Tensor], list[list[int]], list[list[int]]]


def read_candidates(model: nn.Module, encoder: Encoder, examples: Sequence[Example]) -> Candidates | Batch:
    """What `candidate_logps` has to do on the CPU, and can do ahead: prefixes, what each prompt goes on with, and
    responses; or the batch of training, where a prompt is not read once."""
    by_state = can_copy(model) and not can_share(model)
    if not (by_state or (encoder.layout == "tree" and shares(model))):
        return encoder.batch(examples)
    inputs, rests = encoder.prefixes(examples, rows_about(examples))
    return pinned(inputs, model.device), rests, encoder.responses(examples)


@torch.no_grad()
def candidate_logps(
    model: nn.Module, encoder: Encoder, examples: Sequence[Example], ahead: Candidates | Batch | None = None
) -> list[list[float]]:
    """log p of the response tokens of each example: what `response_logps` gives of their batch, without gradient.
    `ahead` is what `read_candidates` gives of them, where that was done.

    In the layout `tree` a prompt is read once into a cache and each response after it, so that candidates take no time
    looking past one another, however many they are; so it is in `rows` for a model whose prefix only its state shares.
    """
    found = ahead or read_candidates(model, encoder, examples)
    if isinstance(found, Batch):
        return trained_logps(model, encoder, examples, found)
    (inputs, rests, responses), row_of = found, torch.tensor(rows_about(examples), device=model.device)
    read = prefill(model, moved(inputs, model.device)).repeated(row_of)
    told = [rest + response[:-1] for rest, response in zip(rests, responses, strict=True)]
    tokens, present = padded(told, 0).to(model.device), padded([[1] * len(t) for t in told], 0).to(model.device)
    hidden = base_of(model).model(**read.then(tokens, present, read.position + present.cumsum(1) - 1)).last_hidden_state
    asked = [h[len(rest) - 1 :][: len(r)] for h, rest, r in zip(hidden, rests, responses, strict=True)]
    labels = torch.tensor([i for response in responses for i in response], device=model.device)
    logps = head_logps(base_of(model).get_output_embeddings(), torch.cat(asked), labels)
    return [part.tolist() for part in logps.cpu().split([len(r) for r in responses])]
