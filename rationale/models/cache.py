"""A cache of prompts that many rows read: keys and values of a prompt are held and read once, whatever its rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

TILE_SCORES = (2**22, 2**26)  # attention scores that exist at a time, on CPU and CUDA


class SharedCache(DynamicCache):
    """Prompts, and what each of several rows has said after its own.

    `prompts` are the keys and values of every layer, each (B, heads, P, width), and `present` (B, P) which tokens are
    no padding; `row_of` (R,) is the prompt of every row. The layers hold what the rows said, (R, heads, T, width).
    Memory, and what a step reads of it, grow with B x P + R x T, not with R x (P + T).
    """

    def __init__(self, prompts: list[tuple[Tensor, Tensor]], present: Tensor):
        super().__init__()
        self.prompts, self.present = prompts, present
        self.hidden = None if present.all() else ~present[:, None, None]
        self.layers = [_Growing() for _ in prompts]
        self.layer_class_to_replicate = None
        self._rows(torch.arange(len(present), device=present.device))

    def _rows(self, row_of: Tensor) -> None:
        """Takes the prompt of every row, and gives every row a place beside the others of its prompt."""
        self.row_of = row_of
        counts = torch.bincount(row_of, minlength=len(self.present))
        order, first = row_of.argsort(stable=True), counts.cumsum(0) - counts
        number = torch.empty_like(row_of)  # among the rows of a prompt
        number[order] = torch.arange(len(row_of), device=row_of.device) - first[row_of[order]]
        self.most = int(counts.max())
        self.place = row_of * self.most + number

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows, each as often as it is named."""
        super().reorder_cache(beam_idx)
        self._rows(self.row_of[beam_idx])

    def seen(self, mask: Tensor, new: int) -> Tensor:
        """Which of a row's own tokens the last `new` of them see, (R, 1, new, T): no padding, and none that is later.

        `mask` (R, P + T) says which tokens of prompt and row are no padding. A padded token sees itself alone.
        """
        own = mask[:, None, self.present.shape[1] :].bool()
        size = own.shape[2]
        order = torch.ones(size, size, dtype=torch.bool, device=mask.device)[-new:]
        seen = own & order.tril(size - new) | torch.eye(size, dtype=torch.bool, device=mask.device)[-new:]
        return seen[:, None]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scale: float) -> Tensor:
        """Attention of `query` (R, H, n, D) over its prompt and its row's own `key` and `value` (R, heads, T, D).

        `seen` (R, 1, n, T) says which of the own tokens are seen. The two parts are joined by the sums of their
        exponentials. Returns (R, n, H, D).
        """
        keys, values = self.prompts[layer]
        rows, groups, new, width = query.shape
        heads = key.shape[1]
        folded = query.reshape(rows, heads, groups // heads * new, width)  # the queries of a head of keys
        # The rows of a prompt side by side: one product with its keys, read once.
        beside = folded.new_zeros(len(keys) * self.most, *folded.shape[1:])
        beside[self.place] = folded
        beside = beside.view(len(keys), self.most, *folded.shape[1:]).transpose(1, 2).flatten(2, 3)
        early, early_sum = _attention(beside, keys, values, self.hidden, scale)
        early, early_sum = (
            t.unflatten(2, (self.most, -1)).transpose(1, 2).flatten(0, 1)[self.place] for t in (early, early_sum)
        )
        late, late_sum = _attention(folded, key, value, ~seen.repeat(1, 1, groups // heads, 1), scale)
        share = (early_sum - late_sum).sigmoid()
        out = late + share * (early - late)
        return out.to(query.dtype).view(rows, groups, new, width).transpose(1, 2).contiguous()


def _attention(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Attention where `hidden` is false, and the logarithm of the sum of exponentials (..., 1), both float32.

    Some queries at a time: their scores stay in the processor's cache.
    """
    size = max(1, TILE_SCORES[query.device.type == "cuda"] // (query[:, :, 0, 0].numel() * key.shape[2]))
    found, turned = [], key.transpose(2, 3)
    for start in range(0, query.shape[2], size):
        scores = ((query[:, :, start : start + size] * scale) @ turned).float()
        if hidden is not None:
            part = hidden if hidden.shape[2] == 1 else hidden[:, :, start : start + size]
            scores.masked_fill_(part, -torch.inf)
        largest = scores.amax(-1, keepdim=True)
        total = scores.sub_(largest).exp_().sum(-1, keepdim=True)
        found.append(((scores.to(value.dtype) @ value).float() / total, total.log_() + largest))
    outs, sums = zip(*found, strict=True)
    return torch.cat(outs, 2), torch.cat(sums, 2)


class _Growing(DynamicLayer):
    """Keys and values in room that doubles when it is full, so that a step copies nothing."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self.room = (key_states[:, :, :0], value_states[:, :, :0])
        self.keys, self.values = self.room

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The states so far and these; the views returned are of memory that later steps write behind."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held = self.keys.shape[2]
        end = held + key_states.shape[2]
        if end > self.room[0].shape[2]:
            self.room = tuple(_with_room(old, 2 * end) for old in (self.keys, self.values))
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room[:, :, held:end] = states
        self.keys, self.values = (room[:, :, :end] for room in self.room)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows; the next step makes new room."""
        super().reorder_cache(beam_idx)
        self.room = (self.keys, self.values)


def _with_room(held: Tensor, size: int) -> Tensor:
    room = held.new_empty(*held.shape[:2], size, held.shape[3])
    room[:, :, : held.shape[2]] = held
    return room
