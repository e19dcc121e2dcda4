"""A double of `torch.nn.attention.varlen.varlen_attn` as torch documents it, which refuses what its kernel would."""

from __future__ import annotations

from inspect import signature
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.attention import varlen

SIGNATURE = signature(varlen.varlen_attn)


def varlen_attn(*args, **kwargs) -> Tensor:
    """FlashAttention 2's checks (flash_api.cpp), then softmax by definition, segment by segment."""
    given = SIGNATURE.bind(*args, **kwargs)
    given.apply_defaults()
    query, key, value, ends, key_ends, most, most_keys = given.args
    (tokens, heads, width), (path, groups, _) = query.shape, key.shape
    assert key.shape == value.shape == (path, groups, width)
    assert query.dtype == key.dtype == value.dtype
    assert all(states.stride(-1) == 1 for states in (query, key, value))
    assert width % 8 == 0 and heads % groups == 0 and given.kwargs.get("enable_gqa", True)
    assert given.kwargs["window_size"] == (-1, 0)  # causal, for a tuple alone
    for counted, total, longest in ((ends, tokens, most), (key_ends, path, most_keys)):
        assert counted.dtype == torch.int32 and counted.is_contiguous() and type(longest) is int
        assert counted[0] == 0 and counted[-1] == total  # else its backward gives NaN: pytorch/pytorch#176793
        assert counted.diff().min() > 0 and counted.diff().max() == longest
    found = []
    for (a, b), (c, d) in zip(pairwise(ends.tolist()), pairwise(key_ends.tolist()), strict=True):
        k, v = (states[c:d].float().repeat_interleave(heads // groups, 1) for states in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query[a:b].float(), k) * (given.kwargs["scale"] or width**-0.5)
        later = torch.arange(d - c) > torch.arange(b - a)[:, None] + (d - c) - (b - a)
        found.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(later, -torch.inf).softmax(-1), v))
    return torch.cat(found).to(query.dtype)
