"""Direct preference optimisation as a Lightning module: policy, reference, loss, log."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from rationale.artifacts import UserError
from rationale.models.batch import Batch, Example
from rationale.models.encode import Encoder
from rationale.models.families import base_of
from rationale.models.logps import response_logps
from rationale.models.reference import KINDS, as_reference
from rationale.models.vlm import VLM, disable_dropout
from rationale.objectives.dpo import LOSS_TYPES, DPOTerms, PairLogps, check_loss, dpo_loss
from rationale.objectives.logprobs import sequence_logps
from rationale.objectives.sft import sft_loss
from rationale.schema import RowError
from rationale.settings import NonNegative, Positive, settings
from rationale.training.nonfinite import Recipe
from rationale.training.optim import Optim, configure
from rationale.training.plan import Plan, PlannedData, alike, bundles, copies, unbundled
from rationale.training.step import StepModule

HALF_A_TOKEN = 0.02  # nats; 0.007 seen of one model in two batches, 2 of a model and its next step at 1e-4


@settings
class Objective:
    """The preference loss and what is added to it: `sft_weight` times the NLL of the chosen responses, a mean over the
    tokens of the optimizer step (0: the paper's). `length_normalised` averages log-probabilities over tokens instead
    of summing."""

    beta: Positive = 0.1
    loss_type: Literal[LOSS_TYPES] = "sigmoid"
    label_smoothing: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    sft_weight: NonNegative = 0.0
    length_normalised: bool = False

    def __post_init__(self) -> None:
        check_loss(self.beta, self.loss_type, self.label_smoothing)

    def __call__(self, policy: PairLogps, reference: PairLogps) -> DPOTerms:
        """The loss of each pair; another loss is a subclass with its own, put in by `dpo.objective._target_`."""
        return dpo_loss(policy, reference, self.beta, self.loss_type, self.label_smoothing)


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
    bundle: str = "pair",
    held_out: Sequence[tuple[Example, Example]] = (),
) -> PlannedData:
    """Batches of (chosen, rejected) in planned order; `held_out` pairs are not trained on but measured.

    `stored` holds the reference log-probs of each pair, those of the held-out ones last.

    What is planned and counted are bundles: single pairs, or all pairs of one question, which then share a row in the
    layout `tree`. A step of questions holds up to three times as many pairs, and the pairs of a question move the
    weights together rather than in turn; every pair weighs the same within its step.
    """
    if bundle not in ("pair", "question"):
        raise UserError(f"dpo.bundle: {bundle!r} is neither 'pair' nor 'question'")
    lengths = [encoder.response_lengths([pair[side] for pair in [*pairs, *held_out]]) for side in (0, 1)]
    together = bundles((p[0].image, p[0].prompt) if bundle == "question" else i for i, p in enumerate(pairs))
    prompts = encoder.prompt_lengths([chosen for chosen, _ in pairs])
    keys = [alike(sum(side[i] for side in lengths for i in b), prompts[b[0]]) for b in together]
    planned, held = unbundled(order(keys), together), range(len(pairs), len(pairs) + len(held_out))
    pairs = [*pairs, *held_out]

    def recipe(indices: list[int]) -> Recipe:
        examples, logps = ([side[i][n] for n in (0, 1) for i in indices] for side in (pairs, stored or pairs))
        return Recipe(examples, encoder.layout, encoder.max_response_tokens, logps if stored else None)

    collate = partial(_collate, encoder, pairs, lengths[0], stored)  # can be pickled: it goes to other processes
    return PlannedData(planned, collate, held, recipe)


def _collate(
    encoder: Encoder,
    pairs: list[tuple[Example, Example]],
    chosen_lengths: list[int],
    stored: list[tuple[list[float], list[float]]] | None,
    indices: list[int],
    step: list[int],
) -> PairBatch:
    """The micro-batch of `indices`, part of the optimizer step `step`."""
    examples = [pairs[i][0] for i in indices] + [pairs[i][1] for i in indices]
    rows = encoder.batch(examples)
    reference = None
    if stored is not None:
        reference = torch.zeros(rows.labels.shape)
        columns = [stored[i][0] for i in indices] + [stored[i][1] for i in indices]
        for row, (logps, kept) in enumerate(zip(columns, rows.mask.sum(1).tolist(), strict=True)):
            if len(logps) != kept:
                raise RowError(
                    f"{examples[row].question_id}: {len(logps)} stored reference log-probs for {kept} tokens; "
                    "texts, truncation or tokenizer changed since; re-run stage=score"
                )
            reference[row, :kept] = torch.tensor(logps)
    whole = set(step)
    return PairBatch(rows, len(whole), sum(chosen_lengths[i] for i in whole), copies(indices, step), reference)


class DPOModule(StepModule):
    """`reference` is frozen (a copy), adapter_off (the policy without its LoRA) or scored (read from the batch)."""

    def __init__(self, vlm: VLM, objective: Objective, reference: str, optim: Optim, total_steps: int):
        super().__init__(vlm)
        if reference not in KINDS:
            raise UserError(f"dpo.reference: {reference!r} is none of {list(KINDS)}")
        self.policy = vlm.model.train()  # from_pretrained leaves it in evaluation mode
        disable_dropout(self.policy)
        # A submodule, so that ZeRO-3 shards it like the policy; frozen, so that no optimizer sees it.
        self.frozen = copy.deepcopy(self.policy).requires_grad_(False).eval() if reference == "frozen" else None
        self.strict_loading = self.frozen is None  # a checkpoint has the policy alone
        self.objective, self.reference, self.optim, self.total_steps = objective, reference, optim, total_steps

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """The frozen copy is the starting model: it is made again from that, not stored."""
        if "state_dict" in checkpoint:  # DeepSpeed keeps the weights elsewhere, those of the frozen copy nowhere
            kept = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith("frozen.")}
            checkpoint["state_dict"] = kept

    def _pair(self, logps: Tensor, mask: Tensor) -> PairLogps:
        chosen, rejected = sequence_logps(logps, mask, average=self.objective.length_normalised).chunk(2)
        return PairLogps(chosen, rejected)

    def _compared(self, batch: PairBatch) -> tuple[DPOTerms, PairLogps, PairLogps, Tensor]:
        """The loss of each pair, its log-probs under policy and reference, and those of each token under the policy."""
        rows = batch.rows
        logps = response_logps(self.policy, rows)
        policy = self._pair(logps, rows.mask)
        with as_reference(self.policy, self.frozen, self.reference) as network:
            stored = batch.reference if network is None else response_logps(network, rows)
        reference = self._pair(stored, rows.mask)
        return self.objective(policy, reference), policy, reference, logps

    def training_step(self, batch: PairBatch, index: int) -> Tensor:
        rows, o = batch.rows, self.objective
        terms, policy, reference, logps = self._compared(batch)
        if self.global_step == 0:
            self._check_start(policy, reference, rows.mask)
        means = {"train/loss": terms.loss.mean().detach(), **_means(terms, policy), "train/padding": rows.padding}
        half = len(terms.loss)
        loss = terms.loss.sum() / (batch.step_pairs * batch.copies)
        if o.sft_weight:
            nll = sft_loss(logps[:half], rows.mask[:half], batch.step_tokens * batch.copies)
            loss = loss + o.sft_weight * nll
        self.log_step(index, loss, half / batch.copies, means, {"train/tokens": rows.mask.sum() / batch.copies})
        return loss * self.micro_batches()

    def told(self) -> dict[str, Any]:
        return {
            "stage": "dpo",
            **asdict(self.objective),
            "class": type(self.objective).__name__,
            "reference": self.reference,
        }

    def measure(self, batch: PairBatch) -> tuple[float, dict[str, Any]]:
        terms, policy, _, _ = self._compared(batch)
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

    def configure_optimizers(self) -> dict:
        return configure(self.policy, self.optim, self.total_steps)


def _means(terms: DPOTerms, policy: PairLogps) -> dict[str, Tensor]:
    """What is logged beside the loss, by the field's names."""
    margins = terms.chosen_rewards - terms.rejected_rewards
    return {
        "rewards/chosen": terms.chosen_rewards.mean(), "rewards/rejected": terms.rejected_rewards.mean(),
        "rewards/margins": margins.mean(), "rewards/accuracies": (margins > 0).float().mean(),
        "logps/chosen": policy.chosen.mean().detach(), "logps/rejected": policy.rejected.mean().detach(),
    }  # fmt: skip
