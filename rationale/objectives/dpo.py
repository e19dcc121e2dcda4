"""Direct Preference Optimization (Rafailov et al., 2023), Eq. 7, and three relatives."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rationale.settings import HalfFraction, NonNegative, Positive, settings

LOSS_TYPES = ("sigmoid", "robust", "hinge", "ipo")


class PairLogps(NamedTuple):
    """Sequence log-probabilities (nats) of the two responses of each pair, (B,) each."""

    chosen: Tensor
    rejected: Tensor


class DPOTerms(NamedTuple):
    """Per-example loss and the implicit rewards beta * log(policy / reference), detached, (B,) each."""

    loss: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


def dpo_loss(
    policy: PairLogps,
    reference: PairLogps,
    beta: float,
    loss_type: str = "sigmoid",
    label_smoothing: float = 0.0,
) -> DPOTerms:
    """-log sigmoid(margin) by default: log 2 where policy and reference agree.

    Log-probabilities are sums over the response; a caller that wants them per token (usual for `ipo`, which
    otherwise asks the same margin of long and short responses) averages first. `label_smoothing` is the probability
    that a preference is the wrong way round: `sigmoid` then is conservative DPO, `robust` its unbiased form
    (Chowdhury et al., 2024), whose loss may be negative. The reference is taken as given: compute it without gradient.
    """
    check_loss(beta, loss_type, label_smoothing)
    shapes = [tuple(logps.shape) for logps in (*policy, *reference)]
    if len(set(shapes)) > 1:  # (B,) against (B, 1) would broadcast to every pair against every reference
        raise ValueError(f"policy and reference log-probabilities must share one shape, found {shapes}")
    epsilon = label_smoothing
    chosen_rewards = beta * (policy.chosen - reference.chosen)
    rejected_rewards = beta * (policy.rejected - reference.rejected)
    margin = chosen_rewards - rejected_rewards
    if loss_type == "sigmoid":
        loss = -(1 - epsilon) * F.logsigmoid(margin) - epsilon * F.logsigmoid(-margin)
    elif loss_type == "robust":
        loss = (-(1 - epsilon) * F.logsigmoid(margin) + epsilon * F.logsigmoid(-margin)) / (1 - 2 * epsilon)
    elif loss_type == "hinge":
        loss = torch.relu(1 - margin)
    else:
        loss = ((margin - 1 / 2) / beta) ** 2  # Azar et al., 2023, Eq. 17: the margin is beta times their h
    return DPOTerms(loss, chosen_rewards.detach(), rejected_rewards.detach())


def check_loss(beta: float, loss_type: str, label_smoothing: float) -> None:
    """Raise ValueError where a loss cannot be had with these."""
    if loss_type not in LOSS_TYPES:
        raise ValueError(f"no loss_type {loss_type!r}; known: {', '.join(LOSS_TYPES)}")
    smoothable = {"sigmoid": 0 <= label_smoothing <= 0.5, "robust": 0 <= label_smoothing < 0.5}
    if not smoothable.get(loss_type, label_smoothing == 0):
        raise ValueError(
            f"label_smoothing {label_smoothing} does not fit loss_type {loss_type!r}: sigmoid takes 0 to 0.5, "
            "robust 0 to below 0.5, the others only 0"
        )
    if not beta > 0:
        raise ValueError(f"beta must be positive, found {beta}")


@settings
class Objective:
    """The preference loss and what is added to it: `sft_weight` times the NLL of the chosen responses, a mean over the
    tokens of the optimizer step (0: the paper's). `length_normalised` averages log-probabilities over tokens instead
    of summing."""

    beta: Positive = 0.1
    loss_type: Literal[LOSS_TYPES] = "sigmoid"
    label_smoothing: HalfFraction = 0.0
    sft_weight: NonNegative = 0.0
    length_normalised: bool = False
    needs_reference: ClassVar[bool] = True  # False in a subclass: none is computed, and its call is given None

    def __post_init__(self) -> None:
        check_loss(self.beta, self.loss_type, self.label_smoothing)

    def __call__(self, policy: PairLogps, reference: PairLogps | None) -> DPOTerms:
        """The loss of each pair; another loss is a subclass with its own, put in by `dpo.objective._target_`."""
        return dpo_loss(policy, reference, self.beta, self.loss_type, self.label_smoothing)
