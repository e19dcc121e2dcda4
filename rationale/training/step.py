"""What training modules share: a loss and a log of the whole optimizer step, however many micro-batches make it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import Tensor

from rationale.models.batch import Batch
from rationale.models.logps import response_logps
from rationale.models.reference import as_reference
from rationale.models.vlm import VLM, disable_dropout
from rationale.training import nonfinite
from rationale.training.optim import Optim, configure


class StepModule(pl.LightningModule):
    """Micro-batches of a step are taken in turn by this process and at the same time by others.

    A module has `measure(batch)`: the weight of a held-out batch, and means over it, `loss` among them; and
    `objective_config()`: its objective as JSON.

    What is not finite stops every process before the weights are written (training.nonfinite): a loss once its step
    is whole, before the last backward pass; a gradient before it is clipped, or under DeepSpeed, which then leaves
    the step out without a word, after that. In 16 bits the loss scale overflows on purpose: there a gradient may.
    Not covered: an optimizer that makes weights that are not finite of gradients that are, until the next loss.
    """

    def __init__(self, vlm: VLM, optim: Optim, total_steps: int) -> None:
        super().__init__()
        self.vlm, self.optim, self.total_steps = vlm, optim, total_steps
        self.policy = vlm.model.train()  # from_pretrained leaves it in evaluation mode
        self._held: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._step_losses: list[float] | None = None
        self._measured: list[Tensor] = []
        self._names: list[str] = []

    def configure_optimizers(self) -> dict:
        return configure(self.policy, self.optim, self.total_steps)

    def micro_batches(self) -> int:
        """Of a step, over all processes."""
        return self.trainer.accumulate_grad_batches * self.trainer.world_size

    def averaged(self, loss: Tensor) -> Tensor:
        """What `training_step` returns of a loss whose sum over the step's micro-batches is the step's: Lightning and
        the processes average over them. DeepSpeed divides by those of a process once more, which Adam does not see, but
        the clip of the gradient does."""
        again = isinstance(self.trainer.strategy, DeepSpeedStrategy)
        return loss * self.micro_batches() * (self.trainer.accumulate_grad_batches if again else 1)

    def log_step(self, index: int, loss: Tensor, weight: float, means: dict[str, Any], sums: dict[str, Any]) -> None:
        """Log, once a step, the means by `weight` and the sums over its micro-batches in all processes.

        `index` is the number of this process's micro-batch, `loss` what it is trained on; `train/loss`, among the
        means, is on the progress bar.
        """
        names = [*means, *sums]
        self._held.append(self._weighed(weight, means, sums))
        self._losses.append(loss.detach())
        if (index + 1) % self.trainer.accumulate_grad_batches:
            return
        total, self._step_losses = self._reduced(self._held, self._losses)
        shown = {n: total[i] / total[-1].clamp(min=1) if n in means else total[i] for i, n in enumerate(names)}
        self.log_dict(shown, batch_size=1)
        self.log("loss", shown["train/loss"], prog_bar=True, logger=False, batch_size=1)

    def _weighed(self, weight: float, means: dict[str, Any], sums: dict[str, Any]) -> Tensor:
        """The means times their weight, the sums, and the weight: what adds up over batches and processes."""
        found = [*(torch.as_tensor(v, device=self.device) * weight for v in means.values()), *sums.values(), weight]
        return torch.stack([torch.as_tensor(v, dtype=torch.float32, device=self.device) for v in found])

    def validation_step(self, batch: Any, index: int) -> None:
        weight, means = self.measure(batch)
        weight = weight if self.trainer.datamodule.counts(index) else 0.0
        self._names = list(means)
        self._measured.append(self._weighed(weight, means, {}))
        self._losses.append(means["loss"])

    def on_validation_epoch_end(self) -> None:
        total, losses = self._reduced(self._measured, self._losses)
        if found := _not_finite(losses):
            self._stop("held-out loss", self.global_step, self.trainer.datamodule.held_out, found, losses)
        means = {f"val/{name}": value / total[-1] for name, value in zip(self._names, total[:-1], strict=True)}
        self.log_dict(means, sync_dist=True)  # the same in every process

    def _reduced(self, weighed: list[Tensor], losses: list[Tensor]) -> tuple[Tensor, list[float]]:
        """The sums over batches and processes, and every batch's own loss in planned order, in one reduction; both
        lists are emptied."""
        each = torch.zeros(len(losses), self.trainer.world_size, device=self.device)
        each[:, self.trainer.global_rank] = torch.stack(losses)
        sums = torch.stack(weighed).sum(0)
        total = self.trainer.strategy.reduce(torch.cat([sums, each.flatten()]), reduce_op="sum")
        weighed.clear()
        losses.clear()
        return total[: len(sums)], total[len(sums) :].tolist()

    def on_before_backward(self, loss: Tensor) -> None:
        if self._step_losses and (found := _not_finite(self._step_losses)):  # known at the step's last micro-batch
            self._stop_step("loss", found)

    def configure_gradient_clipping(self, optimizer: Any, gradient_clip_val: float | None = None, **_: Any) -> None:
        """As Lightning's own, by norm, which is looked at. DeepSpeed holds the gradients and clips them itself."""
        if not isinstance(self.trainer.strategy, DeepSpeedStrategy):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            self._check_norm(torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val or math.inf))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if isinstance(self.trainer.strategy, DeepSpeedStrategy):
            self._check_norm(self.trainer.model.get_global_grad_norm())

    def _check_norm(self, norm: Tensor | float | None) -> None:
        """`norm` is None in the middle of DeepSpeed's first step."""
        if norm is None or 0 <= norm < math.inf or self.trainer.precision.startswith("16"):
            return
        self._stop_step("gradient", range(self.micro_batches()))

    def _stop_step(self, what: str, numbers: Iterable[int]) -> None:
        first = self.global_step * self.micro_batches()
        planned = self.trainer.datamodule.plan.micro_batches[first : first + self.micro_batches()]
        self._stop(what, self.global_step + 1, planned, numbers, self._step_losses)

    def _stop(
        self, what: str, step: int, planned: list[list[int]], numbers: Iterable[int], losses: list[float]
    ) -> None:
        recipe, world = self.trainer.datamodule.recipe, self.trainer.world_size
        found = [
            {"number": j + 1, "process": j % world, "loss": str(losses[j]), "recipe": recipe(planned[j % len(planned)])}
            for j in numbers
        ]
        nonfinite.stop(self.vlm, self, what, step, found)


class ReferencedModule(StepModule):
    """A policy without dropout against a reference of a kind (models.reference), or against none."""

    def __init__(self, vlm: VLM, reference: str | None, optim: Optim, total_steps: int) -> None:
        super().__init__(vlm, optim, total_steps)
        disable_dropout(self.policy)
        self.reference = reference
        # A submodule, so that ZeRO-3 shards it like the policy; frozen, so that no optimizer sees it.
        self.frozen = copy.deepcopy(self.policy).requires_grad_(False).eval() if reference == "frozen" else None
        self.strict_loading = self.frozen is None  # a checkpoint has the policy alone

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """The frozen copy is the starting model: it is made again from that, not stored."""
        if "state_dict" in checkpoint:  # DeepSpeed keeps the weights elsewhere, those of the frozen copy nowhere
            kept = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith("frozen.")}
            checkpoint["state_dict"] = kept

    def reference_logps(self, rows: Batch) -> Tensor | None:
        """log p of each token under the reference, without gradient; None where no network gives them."""
        with as_reference(self.policy, self.frozen, self.reference) as network:
            return None if network is None else response_logps(network, rows)


def _not_finite(losses: list[float]) -> list[int]:
    return [number for number, loss in enumerate(losses) if not math.isfinite(loss)]
