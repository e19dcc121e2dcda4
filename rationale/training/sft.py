"""Supervised fine-tuning as a Lightning module: an adapter from batches to the SFT objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rationale.models.batch import Batch, Example
from rationale.models.encode import Encoder
from rationale.models.logps import response_logps
from rationale.models.vlm import VLM
from rationale.objectives.sft import sft_loss
from rationale.training.nonfinite import Recipe
from rationale.training.optim import Optim
from rationale.training.plan import Plan, PlannedData, copies, grouped, length_key
from rationale.training.step import StepModule


@dataclass(slots=True)
class SFTBatch:
    """Rows, the response tokens (or responses) of their whole optimizer step, and in how many of its micro-batches
    they stand."""

    rows: Batch
    step_total: int
    copies: int = 1

    def to(self, device: torch.device) -> SFTBatch:
        """The batch on another device."""
        return SFTBatch(self.rows.to(device), self.step_total, self.copies)


def sft_data(
    encoder: Encoder,
    examples: list[Example],
    order: Callable[[list], Plan],
    reduction: str = "token",
    group_by: str = "example",
    held_out: Sequence[Example] = (),
) -> PlannedData:
    """Batches of examples in the order that `order(lengths)` plans, each told the total of its optimizer step.

    What is planned and counted are groups: single examples, or all examples about the same images, which then share a
    row in the layout `tree`. A step of images is less mixed than one of as many examples: its examples come in fours
    (two questions, both styles) about a quarter as many images. `held_out` are not trained on but measured.
    """
    num_train, examples = len(examples), [*examples, *held_out]
    lengths = encoder.response_lengths(examples)
    keys = (e.about if group_by == "image" else i for i, e in enumerate(examples[:num_train]))
    prompts = encoder.prompt_lengths(examples)

    def like(group: list[int]) -> tuple[int, int, int]:
        rests = sum(prompts[i] for i in group) if len(group) > 1 else 0  # of prompts that differ behind an image
        first = group[0]
        return length_key(rests + sum(lengths[i] for i in group), prompts[first], len(examples[first].images))

    def recipe(indices: list[int]) -> Recipe:
        return Recipe([examples[i] for i in indices], encoder.layout, encoder.max_response_tokens)

    collate = partial(_collate, encoder, examples, lengths, reduction)  # can be pickled: it goes to other processes
    return PlannedData(grouped(order, keys, like), collate, range(num_train, len(examples)), recipe)


def _collate(
    encoder: Encoder, examples: list[Example], lengths: list[int], reduction: str, indices: list[int], step: list[int]
) -> SFTBatch:
    """The micro-batch of `indices`, part of the optimizer step `step`."""
    whole = set(step)
    total = sum(lengths[i] for i in whole) if reduction == "token" else len(whole)
    return SFTBatch(encoder.batch([examples[i] for i in indices]), total, copies(indices, step))


class SFTModule(StepModule):
    """The loss is a mean over the optimizer step's tokens, however the step is cut into micro-batches."""

    def __init__(self, vlm: VLM, optim: Optim, total_steps: int, reduction: str = "token"):
        super().__init__(vlm, optim, total_steps)
        self.reduction = reduction

    def training_step(self, batch: SFTBatch, index: int) -> Tensor:
        logps = response_logps(self.policy, batch.rows)
        loss = sft_loss(logps, batch.rows.mask, batch.step_total * batch.copies, self.reduction)
        tokens = batch.rows.mask.sum() / batch.copies
        nll = sft_loss(logps.detach(), batch.rows.mask)
        means = {"train/loss": nll, "train/padding": batch.rows.padding}
        self.log_step(index, loss, tokens, means, {"train/tokens": tokens})
        return self.averaged(loss)

    def objective_config(self) -> dict[str, Any]:
        return {"stage": "sft", "reduction": self.reduction}

    def measure(self, batch: SFTBatch) -> tuple[float, dict[str, Any]]:
        mask = batch.rows.mask
        return mask.sum().item(), {"loss": sft_loss(response_logps(self.policy, batch.rows), mask)}
