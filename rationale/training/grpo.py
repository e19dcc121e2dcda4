"""Online reinforcement learning as a Lightning module: samples, rewards, their advantages in a group, loss, log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from rationale.models.batch import Batch, Example
from rationale.models.encode import Encoder
from rationale.models.generate import generate, seed_of
from rationale.models.logps import computing, response_logps
from rationale.models.vlm import VLM
from rationale.objectives.grpo import group_advantages
from rationale.schema import Question
from rationale.scoring.judge import is_correct, judge
from rationale.training.dpo import padded_logps
from rationale.training.nonfinite import Recipe
from rationale.training.plan import Plan, PlannedData, copies
from rationale.training.settings import GRPOSettings
from rationale.training.step import ReferencedModule


@dataclass(slots=True)
class Group:
    """The samples of one question, in JSON's types: texts, whether each ended by itself, tokens where the text has
    others, how many are trained on, the judge's scores, and rewards; of each token the log-probs under the weights that
    it was sampled with, once they are known."""

    texts: list[str]
    finished: list[bool]
    token_ids: list[list[int]]
    lengths: list[int]
    scores: list[float]
    formatted: list[bool]
    rewards: list[float]
    old_logps: list[list[float]] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """`used`, or where all rewards are one, so that no response has an advantage, `all_right` or `all_wrong`."""
        if any(reward != self.rewards[0] for reward in self.rewards):
            return "used"
        return "all_right" if is_correct(self.scores[0]) else "all_wrong"


@dataclass(slots=True)
class QuestionBatch:
    """The questions of a micro-batch, by their indices, and in how many of its step's micro-batches they stand; once it
    is trained on, the rows of those of their responses that have an advantage."""

    indices: list[int]
    copies: int
    rows: Batch | None = None

    def to(self, device: torch.device) -> QuestionBatch:
        """The rows are made where they are needed."""
        return self


def grpo_data(number: int, order: Callable[[list], Plan], updates: int = 1, held_out: int = 0) -> PlannedData:
    """Batches of the first `number` questions, each step's `updates` times in a row; the `held_out` questions behind
    them are measured alone. Its recipe is the module's, which knows the samples."""
    planned = order([0] * number)  # in no order of length: how long a response will be is not known
    size = planned.accumulate
    steps = [planned.micro_batches[i : i + size] for i in range(0, len(planned.micro_batches), size)]
    micro_batches = [batch for step in steps for _ in range(updates) for batch in step]
    plan = Plan(micro_batches, size, planned.left_out)
    return PlannedData(plan, _collate, range(number, number + held_out))


def _collate(indices: list[int], step: list[int]) -> QuestionBatch:
    return QuestionBatch(indices, copies(indices, step))


class GRPOModule(ReferencedModule):
    """Every `updates` steps each process samples its own share of the next questions, and all learn all of them.

    What is sampled hangs on (seed, batch of samples, question) and the weights alone. A group whose rewards are all the
    same is counted and left out: neither its tokens nor its responses are in a mean. The tokens of a response are those
    that were sampled, but for one in which a token marks an image (models.generate.Generated).
    """

    def __init__(
        self,
        vlm: VLM,
        encoder: Encoder,
        questions: Sequence[tuple[Question, Example]],
        settings: GRPOSettings,
        total_steps: int,
        seed: int,
    ):
        reference = settings.reference if settings.objective.kl else None
        super().__init__(vlm, reference, settings.optim, total_steps)
        self.encoder, self.questions, self.seed = encoder, questions, seed
        self.rollout, self.objective, self.updates = settings.rollout, settings.objective, settings.updates
        self.groups: dict[int, Group] = {}  # of this batch of samples, by question, from every process
        self.counts: Counter[str] = Counter()  # groups so far, by kind

    def sampled(self, indices: Sequence[int], batch: str) -> dict[int, Group]:
        """A group for each of these questions, drawn under the number of a batch of samples."""
        asked, examples = zip(*(self.questions[i] for i in indices), strict=True)
        rollout, seeds = self.rollout, [seed_of(self.seed, batch, q.question_id) for q in asked]
        with computing(self.trainer.precision, self.device):
            drawn = generate(self.vlm, examples, rollout.max_new_tokens, rollout.num_samples, 1.0, seed=seeds)
        found = {}
        for index, question, samples in zip(indices, asked, drawn, strict=True):
            verdicts = [judge(question, g.text, rollout.style) for g in samples]
            scores = [v.score for v in verdicts]
            formatted = [v.predicted is not None and g.finished for v, g in zip(verdicts, samples, strict=True)]
            rewards = [s + rollout.format_weight * f for s, f in zip(scores, formatted, strict=True)]
            texts, finished, ids = zip(*((g.text, g.finished, g.token_ids) for g in samples), strict=True)
            group = Group(list(texts), list(finished), list(ids), [], scores, formatted, rewards)
            group.lengths = self.encoder.response_lengths(self._examples(index, group))
            found[index] = group
        return found

    def _examples(self, index: int, group: Group) -> list[Example]:
        head = self.questions[index][1]
        responses = zip(group.texts, group.finished, group.token_ids, strict=True)
        return [Example(head.question_id, head.images, head.prompt, text, e, tuple(ids)) for text, e, ids in responses]

    def on_train_batch_start(self, batch: QuestionBatch, index: int) -> None:
        """Here and not in the step: in the same autocast, weights that were cast without gradient would stay so."""
        step, size = self.global_step, self.micro_batches()
        if step % self.updates or index % self.trainer.accumulate_grad_batches:
            return
        planned = self.trainer.datamodule.plan.micro_batches[step * size : (step + 1) * size]
        own: dict[int, Group] = {}
        for indices in planned[self.trainer.global_rank :: self.trainer.world_size]:
            own |= self.sampled(indices, str(step // self.updates))
        self.groups = self._of_all(own)
        self.counts.update(group.kind for group in self.groups.values())

    def _of_all(self, own: dict[int, Any]) -> dict[int, Any]:
        """What each process knows of its questions, in all."""
        every: list[dict[int, Any]] = [own] * self.trainer.world_size
        if self.trainer.world_size > 1:
            torch.distributed.all_gather_object(every, own)
        return {index: value for found in every for index, value in sorted(found.items())}

    def training_step(self, batch: QuestionBatch, index: int) -> Tensor:
        used = [i for i in batch.indices if self.groups[i].kind == "used"]
        examples, advantages, old = self._responses(batch.indices)
        rows = self.encoder.batch(examples).to(self.device)
        batch.rows = rows if used else None
        logps = response_logps(self.policy, rows)
        mask = rows.mask if used else torch.zeros_like(rows.mask)
        before = padded_logps(old, mask, examples) if old else logps.detach()
        if used and not old and self.updates > 1:
            self._keep(used, logps.detach(), mask)
        terms = self.objective(logps, before, torch.tensor(advantages, device=self.device), self.reference_logps(rows))
        trained = [group for group in self.groups.values() if group.kind == "used"]
        tokens, responses = (sum(n(g.lengths) for g in trained) for n in (sum, len))
        most = self.objective.denominator(tokens, responses, self.rollout.max_new_tokens)
        loss = self.objective.reduced(terms.loss, mask).sum() / (max(most, 1) * batch.copies)
        over_tokens = {"policy/entropy": -logps.detach(), "policy/clipped": terms.clipped.float()}
        if self.reference:
            over_tokens["policy/kl"] = terms.kl
        sums = {name: (value * mask).sum() / (max(tokens, 1) * batch.copies) for name, value in over_tokens.items()}
        groups = [self.groups[i] for i in batch.indices]
        weight = len(groups) / batch.copies
        means = {**_means(groups), "train/padding": rows.padding}
        self.log_step(index, loss, weight, means, {
            "train/loss": loss.detach(), "train/tokens": mask.sum() / batch.copies, **sums,
        })  # fmt: skip
        return self.averaged(loss)

    def _responses(self, indices: Sequence[int]) -> tuple[list[Example], list[float], list[list[float]]]:
        """The responses to these questions that are trained on, their advantages, and their log-probs under the weights
        that sampled them, where they are known. Of questions without any, one response of no advantage: every process
        goes forward and backward."""
        examples: list[Example] = []
        advantages: list[float] = []
        old: list[list[float]] = []
        for index in indices:
            group = self.groups[index]
            if group.kind == "used":
                examples += self._examples(index, group)
                advantages += group_advantages(torch.tensor(group.rewards), self.objective.divide_by_std).tolist()
                old += group.old_logps
        if not examples:
            return self._examples(indices[0], self.groups[indices[0]])[:1], [0.0], []
        return examples, advantages, old

    def _keep(self, used: Sequence[int], logps: Tensor, mask: Tensor) -> None:
        """The log-probs of a first update, those of the weights that sampled, for the updates after it."""
        rows = zip(logps.cpu(), mask.cpu(), strict=True)
        each = iter([row[kept].tolist() for row, kept in rows])
        for index in used:
            self.groups[index].old_logps = [next(each) for _ in self.groups[index].texts]

    def _share_old(self) -> None:
        """The log-probs that other processes know, too."""
        for index, old in self._of_all({i: g.old_logps for i, g in self.groups.items() if g.old_logps}).items():
            self.groups[index].old_logps = old

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Between two updates with the same samples these are part of the state: what drew them is gone."""
        super().on_save_checkpoint(checkpoint)
        between = self.global_step % self.updates > 0
        if between:
            self._share_old()
        groups = {index: asdict(group) for index, group in self.groups.items()} if between else {}
        checkpoint["grpo"] = {"counts": dict(self.counts), "groups": groups}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        kept = checkpoint["grpo"]
        self.counts = Counter(kept["counts"])
        self.groups = {index: Group(**group) for index, group in kept["groups"].items()}

    def measure(self, batch: QuestionBatch) -> tuple[float, dict[str, Any]]:
        """Of held-out questions the rewards, under the same noise each time; the loss is minus their mean."""
        means = _means(list(self.sampled(batch.indices, "held out").values()))
        return len(batch.indices), {"loss": torch.tensor(-means["rewards/mean"], device=self.device), **means}

    def recipe(self, indices: list[int]) -> Recipe:
        """What the micro-batch of these questions is made of."""
        examples, advantages, old = self._responses(indices)
        return Recipe(examples, self.encoder.layout, None, old or None, advantages)

    def _stop(self, *found: Any) -> None:
        self._share_old()
        super()._stop(*found)

    def objective_config(self) -> dict[str, Any]:
        return {"stage": "grpo", "reference": self.reference, "objective": asdict(self.objective)}


def _means(groups: Sequence[Group]) -> dict[str, float]:
    """What is logged of groups, a mean over them."""
    kinds = Counter(group.kind for group in groups)
    responses = {
        "rewards/mean": "rewards", "rewards/score": "scores", "rewards/format": "formatted",
        "responses/tokens": "lengths", "responses/finished": "finished",
    }  # fmt: skip
    found = {name: [float(v) for g in groups for v in getattr(g, part)] for name, part in responses.items()}
    means = {name: sum(values) / len(values) for name, values in found.items()}
    return means | {f"groups/{kind}": kinds[kind] / len(groups) for kind in ("used", "all_right", "all_wrong")}
