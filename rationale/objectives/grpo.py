"""Group relative policy optimisation (GRPO: Shao et al., 2024, arXiv 2402.03300), with what Dr. GRPO (Liu et al., 2025,
arXiv 2503.20783) and DAPO (Yu et al., 2025, arXiv 2503.14476) change of it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rationale.objectives.logprobs import sequence_logps
from rationale.settings import Fraction, NonNegative, settings

NORMALISATIONS = ("token", "sequence", "constant")
STD_FLOOR = 1e-4  # added to a standard deviation, as TRL does


class GRPOTerms(NamedTuple):
    """Of each token, (N, T): its loss; whether the clip cut its gradient off; the estimated KL to the reference in
    nats, 0 where there is none. The last two are detached."""

    loss: Tensor
    clipped: Tensor
    kl: Tensor


def group_advantages(rewards: Tensor, divide_by_std: bool = True) -> Tensor:
    """Of rewards (..., G), those of the G responses to one question: r - mean(r), as Dr. GRPO has it (Sec. 3.2), or
    that over the standard deviation, as GRPO has it (Sec. 4.1.2) and DAPO (Eq. 9). It is that of a sample (G - 1)."""
    centred = rewards - rewards.mean(-1, keepdim=True)
    return centred / (rewards.std(-1, keepdim=True) + STD_FLOOR) if divide_by_std else centred


def k3(logps: Tensor, reference: Tensor) -> Tensor:
    """The unbiased estimate of KL(policy || reference) from tokens of the policy (GRPO, Eq. 4): never negative."""
    log_ratio = reference - logps
    return torch.expm1(log_ratio) - log_ratio


def clipped_loss(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """-min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A) of each token, ratio = policy / sampling policy; and
    where the clip is what counts. GRPO, Eq. 3 without its KL, has one bound; DAPO, Eq. 8, two.

    logps and old_logps (N, T), advantages (N,). Both results (N, T).
    """
    ratio, advantages = (logps - old_logps).exp(), advantages[:, None]
    held = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * advantages, held * advantages), (held * advantages < ratio * advantages).detach()


@settings
class GRPOObjective:
    """The loss of sampled responses.

    `normalisation` is what a step's sum over tokens is divided by: its tokens (DAPO, Eq. 8), each response's tokens and
    the step's responses (GRPO, Eq. 3), or the step's responses times the most tokens that one may have (Dr. GRPO,
    Sec. 3.2). `kl` is the weight of the KL to the reference (GRPO, Eq. 3); at 0 there is no reference.
    """

    divide_by_std: bool
    clip_low: Fraction
    clip_high: NonNegative
    normalisation: Literal[NORMALISATIONS]
    kl: NonNegative = 0.0

    def __call__(self, logps: Tensor, old_logps: Tensor, advantages: Tensor, reference: Tensor | None) -> GRPOTerms:
        """The terms of each token; log-probs (N, T), advantages (N,)."""
        loss, clipped = clipped_loss(logps, old_logps, advantages, self.clip_low, self.clip_high)
        kl = torch.zeros_like(logps) if reference is None else k3(logps, reference)
        return GRPOTerms(loss + self.kl * kl if self.kl else loss, clipped, kl.detach())

    def reduced(self, values: Tensor, mask: Tensor) -> Tensor:
        """Of each response (N,), from values of tokens (N, T): what is added up over the step and divided by its
        `denominator`. The losses of micro-batches then add up to the step's, however it was cut."""
        return sequence_logps(values, mask, average=self.normalisation == "sequence")

    def denominator(self, tokens: int, responses: int, most: int) -> int:
        """Of a step of so many tokens and responses, of which none has more than `most` tokens."""
        return {"token": tokens, "sequence": responses, "constant": responses * most}[self.normalisation]
