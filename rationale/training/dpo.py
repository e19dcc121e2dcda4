"""Direct preference optimisation as a Lightning module: policy, reference, loss, log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rationale.artifacts import UserError
from rationale.models.batch import Batch, Example
from rationale.models.encode import Encoder
from rationale.models.families import base_of
from rationale.models.logps import response_logps
from rationale.models.vlm import VLM
from rationale.objectives.dpo import DPOTerms, Objective, PairLogps
from rationale.objectives.logprobs import sequence_logps
from rationale.objectives.sft import sft_loss
from rationale.schema import RowError
from rationale.training.nonfinite import Recipe
from rationale.training.optim import Optim
from rationale.training.plan import Plan, PlannedData, copies, grouped, length_key
from rationale.training.step import ReferencedModule

HALF_A_TOKEN = 0.02  # nats; 0.007 seen of one model in two batches, 2 of a model and its next step at 1e-4


@dataclass(slots=True)
class PairBatch:
    """2B rows, the chosen of every pair first, then the rejected; the pairs and the chosen responses' tokens of their
    whole optimizer step, and in how many of its micro-batches they stand.

    `reference` holds stored per-token reference log-probs (2B, R), or None where a network gives them.
    """

    rows: Batch
    step_pairs: int
    step_tokens: int
    copies: int = 1
    reference: Tensor | None = None

    def to(self, device: torch.device) -> PairBatch:
        """The batch on another device."""
        reference = None if self.reference is None else self.reference.to(device)
        return PairBatch(self.rows.to(device), self.step_pairs, self.step_tokens, self.copies, reference)


def dpo_data(
    encoder: Encoder,
    pairs: list[tuple[Example, Example]],
    order: Callable[[list], Plan],
    stored: list[tuple[list[float], list[float]]] | None = None,
    group_by: str = "pair",
    held_out: Sequence[tuple[Example, Example]] = (),
) -> PlannedData:
    """Batches of (chosen, rejected) in planned order; `held_out` pairs are not trained on but measured.

    `stored` holds the reference log-probs of each pair, those of the held-out ones last.

    What is planned and counted are groups: single pairs, or all pairs of one question, which then share a row in the
    layout `tree`. A step of questions holds up to three times as many pairs, and the pairs of a question move the
    weights together rather than in turn; every pair weighs the same within its step.
    """
    lengths = [encoder.response_lengths([pair[side] for pair in [*pairs, *held_out]]) for side in (0, 1)]
    keys = ((p[0].images, p[0].prompt) if group_by == "question" else i for i, p in enumerate(pairs))
    prompts = encoder.prompt_lengths([chosen for chosen, _ in pairs])

    def like(group: list[int]) -> tuple[int, int, int]:
        first, tokens = group[0], sum(side[i] for side in lengths for i in group)
        return length_key(tokens, prompts[first], len(pairs[first][0].images))

    planned = grouped(order, keys, like)
    held, pairs = range(len(pairs), len(pairs) + len(held_out)), [*pairs, *held_out]

    def recipe(indices: list[int]) -> Recipe:
        examples, logps = ([side[i][n] for n in (0, 1) for i in indices] for side in (pairs, stored or pairs))
        return Recipe(examples, encoder.layout, encoder.max_response_tokens, logps if stored else None)

    collate = partial(_collate, encoder, pairs, lengths[0], stored)  # can be pickled: it goes to other processes
    return PlannedData(planned, collate, held, recipe)


def _collate(
    encoder: Encoder, pairs: list[tuple[Example, Example]], chosen_lengths: list[int],
    stored: list[tuple[list[float], list[float]]] | None, indices: list[int], step: list[int],
) -> PairBatch:  # fmt: skip
    """The micro-batch of `indices`, part of the optimizer step `step`."""
    examples = [pairs[i][0] for i in indices] + [pairs[i][1] for i in indices]
    rows = encoder.batch(examples)
    logps = None if stored is None else [stored[i][side] for side in (0, 1) for i in indices]
    reference = None if logps is None else padded_logps(logps, rows.mask, examples)
    whole = set(step)
    return PairBatch(rows, len(whole), sum(chosen_lengths[i] for i in whole), copies(indices, step), reference)


def padded_logps(stored: list[list[float]], mask: Tensor, examples: list[Example]) -> Tensor:
    """Stored log-probs of each row's tokens as (rows, tokens), the shape of `mask`, on its device; 0 behind them."""
    padded = torch.zeros(mask.shape, device=mask.device)
    for row, (logps, kept) in enumerate(zip(stored, mask.sum(1).tolist(), strict=True)):
        if len(logps) != kept:
            raise RowError(
                f"{examples[row].question_id}: {len(logps)} stored reference log-probs for {kept} tokens; "
                "texts, truncation or tokenizer changed since; re-run stage=score"
            )
        padded[row, :kept] = torch.tensor(logps, device=mask.device)
    return padded


class Compared(NamedTuple):
    """What is trained on, a micro-batch's part of its step; each pair's terms and its log-probs under policy and
    reference, which is None where the objective needs none."""

    loss: Tensor
    terms: DPOTerms
    policy: PairLogps
    reference: PairLogps | None


def compared(objective: Objective, batch: PairBatch, logps: Tensor, reference: Tensor | None) -> Compared:
    """Of the log-probs of each token (2B, R) under the policy and under the reference."""
    mask, half = batch.rows.mask, len(logps) // 2

    def of_pairs(logps: Tensor) -> PairLogps:
        return PairLogps(*sequence_logps(logps, mask, average=objective.length_normalised).chunk(2))

    policy, other = of_pairs(logps), None if reference is None else of_pairs(reference)
    terms = objective(policy, other)
    loss = terms.loss.sum() / (batch.step_pairs * batch.copies)
    if objective.sft_weight:
        nll = sft_loss(logps[:half], mask[:half], batch.step_tokens * batch.copies)
        loss = loss + objective.sft_weight * nll
    return Compared(loss, terms, policy, other)


class DPOModule(ReferencedModule):
    """`reference` is frozen (a copy), adapter_off (the policy without its LoRA) or scored (read from the batch)."""

    def __init__(self, vlm: VLM, objective: Objective, reference: str, optim: Optim, total_steps: int):
        super().__init__(vlm, reference if objective.needs_reference else None, optim, total_steps)
        self.objective = objective

    def _compared(self, batch: PairBatch) -> Compared:
        logps, reference = response_logps(self.policy, batch.rows), self.reference_logps(batch.rows)
        if self.reference == "scored":
            reference = batch.reference
        return compared(self.objective, batch, logps, reference)

    def training_step(self, batch: PairBatch, index: int) -> Tensor:
        loss, terms, policy, reference = self._compared(batch)
        if self.global_step == 0 and reference is not None:
            self._check_start(policy, reference, batch.rows.mask)
        means = {"train/loss": terms.loss.mean().detach(), **_means(terms, policy), "train/padding": batch.rows.padding}
        tokens = {"train/tokens": batch.rows.mask.sum() / batch.copies}
        self.log_step(index, loss, len(terms.loss) / batch.copies, means, tokens)
        return self.averaged(loss)

    def objective_config(self) -> dict[str, Any]:
        kind = type(self.objective)
        named = {"class": f"{kind.__module__}.{kind.__qualname__}", **asdict(self.objective)}
        return {"stage": "dpo", "reference": self.reference, "objective": named}

    def measure(self, batch: PairBatch) -> tuple[float, dict[str, Any]]:
        _, terms, policy, _ = self._compared(batch)
        return len(terms.loss), {"loss": terms.loss.mean(), **_means(terms, policy)}

    def _check_start(self, policy: PairLogps, reference: PairLogps, mask: Tensor) -> None:
        """Before the first step policy and reference are one model, so every margin is 0 and the loss log 2.

        What half precision rounds depends on the shape of a batch: there a few hundredths of a nat a token.
        """
        gap = max((p - r).abs().max().item() for p, r in zip(policy, reference, strict=True))
        limit = 1e-3 * (1 + max(r.abs().max().item() for r in reference))
        if not self.trainer.precision.startswith("32") or base_of(self.policy).dtype.itemsize < 4:
            most = 1 if self.objective.length_normalised else mask.sum(1).max().item()
            limit = max(limit, HALF_A_TOKEN * most)
        if gap > limit:  # one that is no number is no news of the reference: the loss is none either, and stops the run
            raise UserError(
                f"policy and reference differ by {gap:.4g} nats at step 0 (limit {limit:.4g}): the first loss would "
                "not be log 2. The reference must be the model that training starts from; re-run stage=score for it"
            )


def _means(terms: DPOTerms, policy: PairLogps) -> dict[str, Tensor]:
    """What is logged beside the loss, by the field's names."""
    margins = terms.chosen_rewards - terms.rejected_rewards
    return {
        "rewards/chosen": terms.chosen_rewards.mean(), "rewards/rejected": terms.rejected_rewards.mean(),
        "rewards/margins": margins.mean(), "rewards/accuracies": (margins > 0).float().mean(),
        "logps/chosen": policy.chosen.mean().detach(), "logps/rejected": policy.rejected.mean().detach(),
    }  # fmt: skip
