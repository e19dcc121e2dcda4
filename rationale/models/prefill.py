"""Prompts read once into a cache, then more tokens after each: what decoding and scoring without gradient stand on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rationale.models.batch import Batch, Example, padded
from rationale.models.cache import SharedCache
from rationale.models.device import moved, pinned
from rationale.models.encode import Encoder
from rationale.models.families import base_of, can_copy, can_share
from rationale.models.layout import rows_about
from rationale.models.logps import response_logps
from rationale.models.prefix import after, head_logps, own_positions, shares


@dataclass(slots=True)
class Prefilled:
    """Prompts that were read, and what was said after them: the cache, the logits that follow each row (R, V), its mask
    and the next position, (R, 1), or (3, R, 1) where images have rows and columns."""

    cache: Any
    logits: Tensor
    mask: Tensor
    position: Tensor

    def repeated(self, rows: Tensor) -> Prefilled:
        """The given rows, each as often as it is named."""
        self.cache.reorder_cache(rows)
        return Prefilled(self.cache, self.logits[rows], self.mask[rows], self.position[..., rows, :])

    def decoder_inputs(self, tokens: Tensor, present: Tensor) -> dict[str, Any]:
        """A model's keyword arguments for `tokens` (R, n) after what was read; mask and position go on by them.
        `present` (R, n) says what of them is no padding."""
        self.mask = torch.cat([self.mask, present.to(self.mask.dtype)], 1)
        more: dict[str, Any] = {"attention_mask": self.mask}
        if isinstance(self.cache, SharedCache):
            more = {"attention_mask": self.cache.seen(self.mask, tokens.shape[1]), "shared": self.cache}
        at = self.position + (present.cumsum(1) - 1).clamp(min=0)
        self.position = self.position + present.sum(1, keepdim=True)
        return {"input_ids": tokens, "past_key_values": self.cache, "use_cache": True, "position_ids": at, **more}


def prefill(model: nn.Module, inputs: dict[str, Tensor]) -> Prefilled:
    """Each left-padded prompt and its image, read once."""
    positions = own_positions(model, inputs)
    out = model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1)
    mask, cache = inputs["attention_mask"], out.past_key_values
    if shares(model):
        cache = SharedCache([(layer.keys, layer.values) for layer in cache.layers], mask.bool())
    return Prefilled(cache, out.logits[:, -1].float(), mask, after(positions))


def extend(model: nn.Module, read: Prefilled, rests: list[list[int]]) -> Prefilled:
    """What was read, with some more tokens after each row."""
    given = read.decoder_inputs(*_tokens(rests, model.device, left=True))
    read.logits = model(**given, logits_to_keep=1).logits[:, -1].float()
    return read


def _tokens(rows: list[list[int]], device: torch.device, left: bool = False) -> tuple[Tensor, Tensor]:
    """Rows of one length, and what of them is no padding, both (R, n)."""
    return padded(rows, 0, left).to(device), padded([[1] * len(row) for row in rows], 0, left).to(device)


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
    inputs, rests = encoder.prefixes(examples)
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
    late = [rest + response[:-1] for rest, response in zip(rests, responses, strict=True)]
    hidden = base_of(model).model(**read.decoder_inputs(*_tokens(late, model.device))).last_hidden_state
    predicting = [h[len(rest) - 1 :][: len(r)] for h, rest, r in zip(hidden, rests, responses, strict=True)]
    labels = torch.tensor([i for response in responses for i in response], device=model.device)
    logps = head_logps(base_of(model).get_output_embeddings(), torch.cat(predicting), labels)
    return [part.tolist() for part in logps.cpu().split([len(r) for r in responses])]
