"""Supervised fine-tuning as a Lightning module: an adapter from batches to the SFT objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch import Tensor

from rationale.data.encode import Batch, Encoder, Example
from rationale.models.forward import response_logps
from rationale.models.vlm import VLM
from rationale.objectives.sft import sft_loss
from rationale.training.datamodule import Plan, PlannedData
from rationale.training.optim import Optim, configure


@dataclass(slots=True)
class SFTBatch:
    """Rows and `step_total`: response tokens (or responses) of the whole optimizer step."""

    rows: Batch
    step_total: int

    def to(self, device: torch.device) -> SFTBatch:
        """The batch on another device."""
        return SFTBatch(self.rows.to(device), self.step_total)


def sft_data(
    encoder: Encoder, examples: list[Example], order: Callable[[list[int]], Plan], reduction: str = "token"
) -> PlannedData:
    """Batches of examples in the order that `order(lengths)` plans, each told the total of its optimizer step."""
    lengths = encoder.response_lengths(examples)

    def collate(indices: list[int], step: list[int]) -> SFTBatch:
        total = sum(lengths[i] for i in step) if reduction == "token" else len(step)
        return SFTBatch(encoder.batch([examples[i] for i in indices]), total)

    return PlannedData(order(lengths), collate)


class SFTModule(pl.LightningModule):
    """The loss is a mean over the optimizer step's tokens, however the step is cut into micro-batches."""

    def __init__(self, vlm: VLM, optim: Optim, total_steps: int, reduction: str = "token"):
        super().__init__()
        self.policy = vlm.model.train()  # from_pretrained leaves it in evaluation mode
        self.optim, self.total_steps, self.reduction = optim, total_steps, reduction

    def training_step(self, batch: SFTBatch, _: int) -> Tensor:
        logps = response_logps(self.policy, batch.rows)
        loss = sft_loss(logps, batch.rows.mask, batch.step_total, self.reduction)
        with torch.no_grad():
            shown = {"train/loss": sft_loss(logps, batch.rows.mask), "train/tokens": float(batch.rows.mask.sum())}
        self.log_dict(shown, prog_bar=True, batch_size=1)
        # Lightning divides by the number of micro-batches; the sum over them is already the step's mean.
        return loss * self.trainer.accumulate_grad_batches

    def configure_optimizers(self) -> dict:
        return configure(self.policy, self.optim, self.total_steps)
