"""One prompt, many responses: a row is [prefix][branch 1]...[branch K], and a branch sees the prefix and itself.

The image goes through the vision tower once a row and the prompt through the language model once, whatever the number
of responses; log-probabilities and gradients are those of separate rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rationale.artifacts import UserError, main_process
from rationale.models.batch import PER_TOKEN, Batch
from rationale.models.cache import SharedCache
from rationale.models.families import base_of, can_share, obstacle
from rationale.models.packed import Packed, kernel_for
from rationale.objectives.logprobs import token_logps

ATTENTION = "shared_prefix"
TILE_ELEMENTS = 2**23  # of the head's float32 logits that exist at a time: 32 MB


def shares(model: nn.Module) -> bool:
    """Whether this model is set to: `load` sets those that can, unless another attention was asked for."""
    return can_share(model) and base_of(model).config.get_text_config()._attn_implementation == ATTENTION


def layout_for(model: nn.Module, asked: str) -> str:
    """The layout rows or tree that a setting means for this model: `auto` is tree where the prefix can be shared, and
    otherwise rows, which prints why. A tree that was asked for and cannot be is refused."""
    if asked == "rows" or shares(model):
        return "tree" if asked == "auto" else asked
    name, why = base_of(model).config.model_type, obstacle(model)
    if asked == "tree":
        cannot = f"{name}: its prefix cannot be shared ({why}); set layout=rows"
        raise UserError(cannot if why else "layout=tree needs model.attention=sdpa; set that, or layout=rows")
    if main_process():
        print(f"layout: rows, because {why or 'a shared prefix needs model.attention=sdpa'}", flush=True)
    return "rows"


def enable(model: nn.Module) -> None:
    """Let the language model take rows of shared prefixes; any other mask goes to transformers' own SDPA."""
    model.set_attn_implementation({"text_config": ATTENTION})


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    shared: SharedCache | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Causal attention over the prefix, then every branch over the prefix and itself; (B, T, heads, width) out.

    An int16 `attention_mask` (B, 1, P, T), as `tree_inputs` makes it, holds the segment of every token, repeated over
    the P columns of the prefix. Nothing of the size T x T is made where no prefix is padded, and the upper triangle and
    the other branches of the prefix's rows are not computed. Where the mask has the rows cut into segments, one call
    attends to them (`models.packed`). In decoding, `shared` holds the prompts and attends. Other masks are
    transformers' own.
    """
    if shared is not None:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return shared.attend(module.layer_idx, query, key, value, attention_mask, scale), None
    if attention_mask is None or attention_mask.dtype != torch.int16:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    packed: Packed | None = getattr(attention_mask, "packed", None)
    if packed is not None and not dropout:  # which the kernel does not know
        return packed.attend(query, key, value, scaling), None
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    width, segments = attention_mask.shape[2], attention_mask[:, 0, 0]
    rate = {"dropout_p": dropout if module.training else 0.0, "scale": scaling}
    prefix = segments[:, :width]
    mask = None
    if (prefix < 0).any():
        mask = _causal(width, query.device) & ((prefix >= 0)[:, None, None, :])
        mask = mask | torch.eye(width, dtype=torch.bool, device=query.device)  # a padded row sees itself: no NaN
    out = scaled_dot_product_attention(
        query[:, :, :width], key[:, :, :width], value[:, :, :width], mask, is_causal=mask is None, **rate
    )
    branch = segments[:, width:]
    if branch.shape[1]:
        own = (branch[:, :, None] == branch[:, None, :]) & _causal(branch.shape[1], query.device)
        seen = torch.cat([(prefix == 0)[:, None, :].expand(-1, branch.shape[1], -1), own], dim=2)
        late = scaled_dot_product_attention(query[:, :, width:], key, value, seen[:, None], **rate)
        out = torch.cat([out, late], dim=2)
    return out.transpose(1, 2).contiguous(), None


def _causal(size: int, device: torch.device) -> Tensor:
    return torch.ones(size, size, dtype=torch.bool, device=device).tril()


AttentionInterface.register(ATTENTION, shared_prefix_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def own_positions(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The model's own positions of a left-padded prompt: (B, P), or (3, B, P) where images have rows and columns."""
    trunk, mask = base_of(model).model, inputs["attention_mask"]
    if hasattr(trunk, "get_rope_index"):
        names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
        return trunk.get_rope_index(**{name: inputs.get(name) for name in names})[0]
    return (mask.cumsum(-1) - 1).clamp(min=0)


def after(positions: Tensor) -> Tensor:
    """The position that follows a prompt in each row, (B, 1) or (3, B, 1): one more than the largest on any axis."""
    largest = positions.amax(-1, keepdim=True)
    return (largest.amax(0).expand(3, -1, -1) if positions.ndim == 3 else largest) + 1


def packed_for(base: nn.Module, batch: Batch) -> Packed | None:
    """How the batch is cut into segments; None where attention is masked instead."""
    text, device, width = base.config.get_text_config(), batch.segments.device, batch.width
    cast = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if cast else base.dtype
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    kernel = kernel_for(device, dtype, head, prefix=width, branches=batch.segments.shape[1] - width)
    return kernel and Packed.of(batch.segments, kernel, dtype)


def tree_inputs(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The model's keyword arguments for rows with branches: positions that go on from the prefix, and the mask."""
    layout_for(model, "tree")
    base, width, segments = base_of(model), batch.width, batch.segments
    head = {k: v[:, :width] if k in PER_TOKEN else v for k, v in batch.inputs.items()}
    head["attention_mask"] = (segments[:, :width] >= 0).long()
    prefix = own_positions(model, head)
    branch = after(prefix) + batch.depth[:, width:]
    mask = segments.to(torch.int16)[:, None, None, :].expand(-1, 1, width, -1)
    mask.packed = packed_for(base, batch)  # no keyword: it would go to the vision tower too
    return {**batch.inputs, "attention_mask": mask, "position_ids": torch.cat([prefix, branch], -1)}


def head_logps(head: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    """log p(label) from hidden states (N, H) and labels (N,), in tiles whose logits are made again in backward.

    No (N, vocabulary) tensor ever exists whole: a tile holds at most 2^23 logits. All tiles are one call of the
    module, so that ZeRO-3 gathers its weight once, whatever the number of tiles of each rank. Returns (N,) float32.
    """
    rows = max(1, TILE_ELEMENTS // getattr(head, "out_features", 2**15))
    project = head.forward

    def tile(states: Tensor, targets: Tensor) -> Tensor:
        return token_logps(project(states), targets)

    def tiles(states: Tensor) -> Tensor:
        parts = [
            checkpoint(tile, h, t, use_reentrant=False) if torch.is_grad_enabled() else tile(h, t)
            for h, t in zip(states.split(rows), labels.split(rows), strict=True)
        ]
        return torch.cat(parts) if parts else states.new_zeros(0, dtype=torch.float32)

    with forward_replaced(head, tiles):
        return head(hidden)


@contextmanager
def forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Within it the module runs `forward`; hooks and wrappers around the call stay."""
    own = vars(module).get("forward")  # where something else replaced it too
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own
