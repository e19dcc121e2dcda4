"""DeepSpeed ZeRO, on GPUs as Lightning has it and on CPU processes, where sharding is tested without a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import Tensor, nn

from rationale.artifacts import UserError
from rationale.models.device import announce

# Numbers of a process that ZeRO-3 steps on at a time. At its start it allocates float32 zeros for one such group of
# every process: with Lightning's own 1e12 that is all parameters of the model at once.
SUB_GROUP = 100_000_000


def zero(stage: Literal[1, 2, 3], accelerator: str, offload: bool = False, **more: Any) -> DeepSpeedStrategy:
    """ZeRO of a stage (1: optimizer states, 2: gradients too, 3: parameters too, the frozen reference's as well).

    `offload` keeps optimizer states, and in stage 3 parameters, in the host's memory. `more` are keywords of
    Lightning's DeepSpeedStrategy. Checkpoints leave out what is frozen: it is the starting model's.
    """
    kind = CPUDeepSpeedStrategy if accelerator == "cpu" else DeepSpeedStrategy
    found = kind(
        stage=stage, offload_optimizer=offload, offload_parameters=offload and stage == 3,
        exclude_frozen_parameters=True, logging_batch_size_per_gpu=1, **{"sub_group_size": SUB_GROUP, **more},
    )  # fmt: skip
    found.config["zero_force_ds_cpu_optimizer"] = False  # torch's AdamW does, and needs no compiler
    return found


class CPUDeepSpeedStrategy(DeepSpeedStrategy):
    """DeepSpeedStrategy over gloo. Lightning refuses DeepSpeed on CPU, where it works too, by one check."""

    def __init__(self, **kwargs: Any):
        os.environ["DS_ACCELERATOR"] = "cpu"
        super().__init__(process_group_backend="gloo", **kwargs)

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu", self.local_rank)

    def setup_environment(self) -> None:
        super(DeepSpeedStrategy, self).setup_environment()  # past the check

    def setup_distributed(self) -> None:
        self.set_world_ranks()
        self._init_deepspeed_distributed()


def check_place(run: Trainer, trainer: Callable[..., Trainer]) -> None:
    """Say where `run`, which `trainer` made, trains. Refused where that is the CPU and was not asked for: Lightning
    takes it for any accelerator that it does not know, without a word."""
    asked = getattr(trainer, "keywords", {}).get("accelerator", "cpu")
    if run.strategy.root_device.type == "cpu" and asked != "cpu" and torch.accelerator.is_available():
        raise UserError(
            f"Lightning knows no trainer for {torch.accelerator.current_accelerator()} and takes the CPU; set "
            "trainer.accelerator and trainer.strategy to those of this device's package, or device=cpu"
        )
    announce(run.strategy.root_device)


def whole_weights(trainer: Trainer, module: LightningModule) -> dict[str, Tensor] | None:
    """The policy's state dict on the CPU in the first process where ZeRO-3 has it in pieces; else None, for the model
    itself is whole. Every process must call it."""
    if not getattr(trainer.strategy, "zero_stage_3", False):
        return None
    return gathered(module.policy, keep=trainer.is_global_zero)


class Weights(Callback):
    """`whole_weights` at the end of training."""

    found: dict[str, Tensor] | None = None

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.found = whole_weights(trainer, module)


def gathered(model: nn.Module, keep: bool) -> dict[str, Tensor] | None:
    """The state dict of a model whose parameters ZeRO-3 sharded, on the CPU; every process must call it.

    Parameters are gathered one at a time, so no device ever holds them all.
    """
    import deepspeed

    parameters = dict(model.named_parameters(remove_duplicate=False))
    found: dict[str, Tensor] = {}
    copies: dict[int, Tensor] = {}  # tied weights stay one tensor
    for name, value in model.state_dict(keep_vars=True).items():
        with deepspeed.zero.GatheredParameters([parameters[name]] if name in parameters else []):
            if keep:
                found[name] = copies.setdefault(id(value), value.detach().cpu().clone())
    return found if keep else None
