"""The settings of a training: what all of them share, then SFT's, DPO's and GRPO's own. Numbers and sources: conf/."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from functools import partial
from typing import Any, Literal

from rationale.artifacts import InputPath
from rationale.models.reference import KINDS
from rationale.models.response import Truncation
from rationale.objectives.dpo import Objective
from rationale.objectives.grpo import GRPOObjective
from rationale.objectives.sft import REDUCTIONS
from rationale.settings import Count, Fraction, Layout, Limit, NonNegative, Several, Style, Validation, settings
from rationale.training.mixture import Mixture
from rationale.training.optim import Optim
from rationale.training.plan import Plan, plan


@settings
class BatchSize:
    """Of an optimizer step: `gradient_accumulation_steps` micro-batches, over all processes, of `micro_batch_size` rows
    or groups of rows each. With `drop_last` what fills no step is left out."""

    micro_batch_size: Count
    gradient_accumulation_steps: Count = 1
    drop_last: bool = True


@settings(kw_only=True)
class Training:
    """Shared by every training. `trainer` is a partial of pytorch_lightning.Trainer.

    `shuffle=False` keeps the order of the rows; `stop_after` ends at a step of a schedule that stays that of all steps.
    `workers` processes build batches ahead. Every `save_every` steps a state is written, of which the newest
    `keep_last` stay. `frozen_parts` (models.families) are not trained.
    """

    optim: Optim
    batch: BatchSize
    save_every: Count
    trainer: Callable[..., Any]
    epochs: Count = 1
    shuffle: bool = True
    stop_after: Count | None = None
    layout: Layout = "rows"
    frozen_parts: list[str] = field(default_factory=list)
    workers: Limit = 0
    keep_last: Count = 1
    validation: Validation = Validation(fraction=0.0, every=0.1)

    def order(self, seed: int) -> Callable[[list], Plan]:
        """The plan of rows, or groups of them, of given lengths."""
        size, number = self.batch.micro_batch_size, self.batch.gradient_accumulation_steps
        rest = {"drop_last": self.batch.drop_last, "epochs": self.epochs, "shuffle": self.shuffle}
        return partial(plan, micro_batch=size, accumulate=number, **rest, seed=seed)

    @property
    def precision(self) -> str:
        """Lightning's name for it."""
        return getattr(self.trainer, "keywords", {}).get("precision", "32-true")


@settings(kw_only=True)
class SFTSettings(Training):
    """`responses`, a sample artifact, is what `mixture.rft` imitates. More than a fraction of `max_truncated` responses
    cut to `max_response_tokens` is refused. `group_by`: what a step counts, examples or images with all of theirs."""

    mixture: Mixture
    responses: InputPath | None = None
    pretrain_questions: InputPath | None = None
    group_by: Literal["example", "image"]
    reduction: Literal[REDUCTIONS]
    max_response_tokens: Count | None
    max_truncated: Fraction


@settings(kw_only=True)
class DPOSettings(Training):
    """`datasets`: of these alone, where they are named. `reference` scored reads `reference_logps`, which stage score
    made. `lora` is a fresh adapter (models.vlm). `group_by` is what a step counts: pairs, or questions with all of
    theirs."""

    objective: Objective
    datasets: list[str] | None = None
    reference: Literal[KINDS]
    reference_logps: InputPath | None = None
    lora: dict[str, Any] | None = None
    truncate: Truncation
    group_by: Literal["pair", "question"]


@settings
class Rollout:
    """How a question is asked and its answers are rewarded: `num_samples` responses of at most `max_new_tokens` from
    the policy itself (temperature 1, top_p 1). The reward is the judge's score, and `format_weight` more where a
    response ended by itself with an answer that can be read."""

    style: Style
    num_samples: Several
    max_new_tokens: Count
    format_weight: NonNegative = 0.0


@settings(kw_only=True)
class GRPOSettings(Training):
    """`limit` training questions, drawn by seed (None: all), of `datasets` alone where they are named. Each batch of
    samples is trained on in `updates` steps; what a micro-batch counts are questions with all their samples. A
    `reference` is held only where the objective has a KL; `lora` as for DPO."""

    objective: GRPOObjective
    rollout: Rollout
    updates: Count = 1
    limit: Count | None = None
    datasets: list[str] | None = None
    reference: Literal["frozen", "adapter_off"] = "frozen"
    lora: dict[str, Any] | None = None
