"""AdamW with a learning rate for each part of the model, and the cosine schedule with warm-up."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Annotated

from pydantic import Field
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from rationale.artifacts import UserError
from rationale.models.families import is_in
from rationale.settings import Fraction, NonNegative, Positive, settings

Decay = Annotated[float, Field(ge=0, lt=1)]  # of a running mean


@settings
class Optim:
    """Learning rates and schedule. `part_lrs` maps a part of the model (models.families) to its own rate (the paper's
    vision tower: 5e-7); all else takes `lr`. Weight decay spares biases and norms."""

    lr: Positive
    part_lrs: dict[str, NonNegative] = field(default_factory=dict)
    warmup_ratio: Fraction = 0.03
    min_lr_ratio: Fraction = 0.0
    weight_decay: NonNegative = 0.0
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    clip: NonNegative = 1.0


def parameter_groups(model: nn.Module, optim: Optim) -> list[dict]:
    """Trainable parameters by learning rate and decay; a part that matches nothing is an error."""
    groups: dict[tuple[float, float], list] = {}
    matched: set[str] = set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = next((p for p in optim.part_lrs if is_in(model, p, name)), None)
        matched.update({part} if part else ())
        decay = optim.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((optim.part_lrs.get(part, optim.lr), decay), []).append(parameter)
    missing = sorted(set(optim.part_lrs) - matched)
    if missing:
        raise UserError(
            f"part_lrs: no trainable parameter name holds {missing}; it may be frozen (all but the adapters is under "
            f"LoRA), or named otherwise; take it out with '~sft.optim.part_lrs.{missing[0]}'"
        )
    if not groups:
        raise UserError("nothing to train: every parameter is frozen")
    return [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()]


def cosine(step: int, total: int, warmup_ratio: float, floor: float = 0.0) -> float:
    """Fraction of the peak rate at a step: linear warm-up, then half a cosine down to `floor`."""
    warmup = max(1, math.ceil(total * warmup_ratio))
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def configure(model: nn.Module, optim: Optim, total_steps: int) -> dict:
    """What LightningModule.configure_optimizers returns."""
    optimizer = AdamW(parameter_groups(model, optim), betas=tuple(optim.betas))
    schedule = LambdaLR(optimizer, lambda step: cosine(step, total_steps, optim.warmup_ratio, optim.min_lr_ratio))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
