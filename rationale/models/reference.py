"""The frozen reference of DPO and GRPO, three ways, one loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from rationale.artifacts import UserError
from rationale.models.families import has_adapter

KINDS = ("frozen", "adapter_off", "scored")


@contextmanager
def as_reference(policy: nn.Module, frozen: nn.Module | None, kind: str | None) -> Iterator[nn.Module | None]:
    """The network that gives reference log-probs, without gradient; None where they were scored beforehand, or are
    not needed (`kind` None).

    frozen: a copy of the starting model. adapter_off: the policy with its LoRA adapters disabled, which is the
    starting model as long as LoRA is all that trains. scored: no network is in memory at all.
    """
    with torch.no_grad():
        if kind in (None, "scored"):
            yield None
        elif kind == "adapter_off":
            if not has_adapter(policy):
                raise UserError("reference=adapter_off needs a LoRA policy; set model.lora or use reference=frozen")
            with policy.disable_adapter():
                yield policy
        else:
            frozen.eval()  # Lightning's train() reaches submodules
            yield frozen
