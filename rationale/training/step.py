"""What training modules share: a loss and a log of the whole optimizer step, however many micro-batches make it."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor


class StepModule(pl.LightningModule):
    """Micro-batches of a step are taken in turn by this process and at the same time by others.

    A module has `measure(batch)`: the weight of a held-out batch, and means over it, `loss` among them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held: list[Tensor] = []
        self._measured: list[Tensor] = []
        self._names: list[str] = []

    def micro_batches(self) -> int:
        """Of a step, over all processes. Lightning and the processes average over them: a loss whose sum over the
        micro-batches is the step's is multiplied by their number."""
        return self.trainer.accumulate_grad_batches * self.trainer.world_size

    def log_step(self, index: int, weight: float, means: dict[str, Any], sums: dict[str, Any]) -> None:
        """Log, once a step, the means by `weight` and the sums over its micro-batches in all processes.

        `index` is the number of this process's micro-batch; `train/loss`, among the means, is on the progress bar.
        """
        names = [*means, *sums]
        self._held.append(self._weighed(weight, means, sums))
        if (index + 1) % self.trainer.accumulate_grad_batches:
            return
        total = self.trainer.strategy.reduce(torch.stack(self._held).sum(0), reduce_op="sum")
        self._held.clear()
        shown = {n: total[i] / total[-1] if n in means else total[i] for i, n in enumerate(names)}
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

    def on_validation_epoch_end(self) -> None:
        total = self.trainer.strategy.reduce(torch.stack(self._measured).sum(0), reduce_op="sum")
        self._measured.clear()
        means = {f"val/{name}": value / total[-1] for name, value in zip(self._names, total[:-1], strict=True)}
        self.log_dict(means, sync_dist=True)  # the same in every process
