"""Rows with branches as segments of one variable-length attention call, which computes nothing that a mask would hide.

A segment is a prefix, or a branch that sees its prefix and itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

# torch 2.11 takes fewer heads of keys than of queries as they come; later ones want to be told.
GQA = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}
# Tokens in the branches of a row. With them, and no longer prefix, the loop takes 0.1 to 0.6 of the masked form's time;
# with fewer the two are near each other (experiments/LOG.md, 2026-11-30).
LOOP_FROM = 1024


def kernel_for(
    device: torch.device, dtype: torch.dtype, head: int, prefix: int, branches: int
) -> Callable[..., Tensor] | None:
    """The call that attends in segments; None where `models.prefix` masks instead. It is decided here alone.

    `head` is the width of a head, `prefix` and `branches` are the tokens of a row. On CUDA it is FlashAttention 2
    wherever that runs (torch's flash_api.cpp says where); ROCm's kernels were not compared. On CPU it is a loop, where
    the branches hold so much that what they do not see of one another costs more than a call for each.
    """
    if device.type == "cuda":
        able = torch.version.hip is None and torch.backends.cuda.is_flash_attention_available()
        able = able and dtype in (torch.float16, torch.bfloat16) and head % 8 == 0 and head <= 256
        return varlen_attn if able and torch.cuda.get_device_capability(device) >= (8, 0) else None
    return sdpa_of_segments if device.type == "cpu" and branches >= max(LOOP_FROM, prefix) else None


@dataclass(frozen=True, slots=True)
class Packed:
    """How the rows of a batch are cut into segments; made once, for every layer.

    The flattened rows are stretches of `sizes` tokens: `queries` are those that are no padding, each a segment, and
    `keys` what the segments see, one after another: a prefix itself, a branch its prefix and itself. `query_ends` and
    `key_ends`, (segments + 1,) int32, are cu_seqlens; `longest` are the most queries and keys of a segment.
    """

    sizes: list[int]
    queries: list[int]
    keys: list[int]
    query_ends: Tensor
    key_ends: Tensor
    longest: tuple[int, int]
    kernel: Callable[..., Tensor]
    dtype: torch.dtype

    @classmethod
    def of(cls, segments: Tensor, kernel: Callable[..., Tensor], dtype: torch.dtype) -> Packed:
        """Of `models.batch.Batch.segments`, (B, T), for attention that computes in `dtype`."""
        runs = [(number, len(list(run))) for row in segments.tolist() for number, run in groupby(row)]
        paths: dict[int, list[int]] = {}
        for place, (number, _) in enumerate(runs):
            if number == 0:
                prefix = place
            if number >= 0:
                paths[place] = [prefix, place] if number else [prefix]
        sizes = [size for _, size in runs]
        counts = [sizes[place] for place in paths], [sum(sizes[place] for place in path) for path in paths.values()]
        ends = (torch.tensor([0, *c]).cumsum(0).int().to(segments.device) for c in counts)
        keys = [place for path in paths.values() for place in path]
        return cls(sizes, [*paths], keys, *ends, tuple(map(max, counts)), kernel, dtype)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """Attention of `query` (B, H, T, D) over `key` and `value` (B, heads, T, D), (B, T, H, D); 0 where padded.

        The last query of a segment sees all its keys, and each before it one less. The prefix's keys and values are
        copied for itself and for each branch: tokens of the prefix x (branches + 1) a row and layer, kept for backward
        unless layers are checkpointed.
        """
        flat = (states.to(self.dtype).transpose(1, 2).flatten(0, 1) for states in (query, key, value))
        queries, keys, values = (states.split(self.sizes) for states in flat)
        packed = [
            torch.cat([parts[place] for place in places])
            for parts, places in ((queries, self.queries), (keys, self.keys), (values, self.keys))
        ]
        out = self.kernel(
            *packed, self.query_ends, self.key_ends, *self.longest, scale=scale, window_size=(-1, 0), **GQA
        )
        found = dict(zip(self.queries, out.split([self.sizes[place] for place in self.queries]), strict=True))
        padded = [found[n] if n in found else torch.zeros_like(part) for n, part in enumerate(queries)]
        return torch.cat(padded).unflatten(0, (len(query), -1))


def sdpa_of_segments(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int,
    *, scale: float | None, window_size: tuple[int, int], enable_gqa: bool = True,
) -> Tensor:  # fmt: skip
    """What `varlen_attn` gives with these arguments and the window (-1, 0), causal at the lower right, anywhere."""
    found, sizes = [], [ends.diff().tolist() for ends in (cu_seq_q, cu_seq_k, cu_seq_k)]
    parts = (states.transpose(0, 1)[None].split(n, 2) for states, n in zip((query, key, value), sizes, strict=True))
    for q, k, v in zip(*parts, strict=True):
        new, seen = q.shape[2], k.shape[2]
        mask = None if new == seen else torch.ones(new, seen, dtype=torch.bool, device=q.device).tril(seen - new)
        found.append(
            scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=scale, enable_gqa=enable_gqa)
        )
    return torch.cat(found, 2)[0].transpose(0, 1)
