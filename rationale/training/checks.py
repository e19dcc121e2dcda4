"""What stops a training that would run but train wrongly, before it starts or after its first step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import Tensor

from rationale.artifacts import UserError
from rationale.models.batch import Example
from rationale.models.encode import Encoder


def check_cut(encoder: Encoder, examples: Sequence[Example], max_truncated: float, setting: str) -> dict[str, int]:
    """Refuse where more than `max_truncated` of the responses are cut to the encoder's limit; `setting` names the limit
    in the message. Returns counts."""
    cut = encoder.num_cut(examples)
    if cut > max_truncated * len(examples):
        raise UserError(
            f"{cut} of {len(examples)} responses are longer than {encoder.max_response_tokens} tokens and would be cut "
            f"(limit {max_truncated:.1%}); raise {setting}.max_response_tokens, or {setting}.max_truncated if meant"
        )
    return {"truncated": cut}


class GradientCheck(Callback):
    """Every part of the model that trains gets a gradient by the end of the first step that holds an image.

    A part is what a parameter's name begins with, such as `model.vision_tower`. One that gets none was cut off from
    the loss, and would stay as it is without a word.
    """

    def __init__(self) -> None:
        self.silent: set[str] = set()
        self.hooks: list[Any] = []
        self.pictured, self.start = False, 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.start = trainer.global_step
        for name, parameter in module.policy.named_parameters():
            if parameter.requires_grad:
                self.silent.add(part_of(name))
                self.hooks.append(parameter.register_hook(partial(self._heard, part_of(name))))

    def _heard(self, part: str, gradient: Tensor) -> None:
        if part in self.silent and gradient.any():
            self.silent.discard(part)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        if not self.hooks:
            return
        self.pictured |= batch.rows is not None and "pixel_values" in batch.rows.inputs  # None: nothing was learned
        if trainer.global_step > self.start and self.pictured:
            for hook in self.hooks:
                hook.remove()
            self.hooks.clear()
            if self.silent:
                raise UserError(
                    f"no gradient reached {', '.join(sorted(self.silent))} in the first step, though it is to be "
                    "trained; add it to frozen_parts if that is meant, or look for what cuts it off from the loss"
                )


def part_of(name: str) -> str:
    """`model.vision_tower` of `model.vision_tower.layers.0.weight`, whatever peft puts before it."""
    return ".".join(name.removeprefix("base_model.model.").split(".")[:2])


class FrozenUnchanged(Callback):
    """What is frozen, the reference included, is bit for bit the same after the first step and at the end."""

    def __init__(self) -> None:
        self.before: dict[str, int] = {}
        self.start = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.before, self.start = _digests(module), trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.start + 1:
            self._compare(module)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._compare(module)

    def _compare(self, module: pl.LightningModule) -> None:
        now = _digests(module)
        if moved := [name for name, value in self.before.items() if now[name] != value]:
            raise RuntimeError(f"{len(moved)} frozen parameters moved, first {moved[0]}; something else writes to them")


def _digests(module: pl.LightningModule) -> dict[str, int]:
    """The sum of each frozen parameter's bits as integers; of this process's piece of it under ZeRO-3."""
    frozen = (
        (name, getattr(p, "ds_tensor", p).detach()) for name, p in module.named_parameters() if not p.requires_grad
    )
    as_integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return {
        name: value.contiguous().view(as_integers[value.element_size()]).sum(dtype=torch.int64).item()
        for name, value in frozen
    }


def check_master_copies(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """bfloat16 has 8 bits of precision: steps of a small learning rate are rounded away where the weights have no
    float32 copy, as DeepSpeed keeps."""
    low = {str(p.dtype).removeprefix("torch.") for p in module.parameters() if p.requires_grad and p.element_size() < 4}
    if low and not isinstance(trainer.strategy, DeepSpeedStrategy):
        raise UserError(
            f"weights to be trained are {', '.join(sorted(low))} and this trainer keeps no float32 copy of them, so "
            "small steps would be lost; set model.dtype=float32 (trainer.precision=bf16-mixed computes in bfloat16 all "
            "the same), trainer=zero1 (or 2, 3), or train a LoRA"
        )
