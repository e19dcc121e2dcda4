"""The loss of sampled responses against arithmetic on paper, and against TRL's on the same tensors."""

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from rationale.objectives.grpo import NORMALISATIONS, GRPOObjective, clipped_loss, group_advantages, k3

PLAIN = {"divide_by_std": True, "clip_low": 0.2, "clip_high": 0.28}


def close(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-5)


def test_an_advantage_is_what_a_reward_is_above_its_group():
    close(group_advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]]), divide_by_std=False),
          [[0.5, -0.5, -0.5, 0.5], [0.75, -0.25, -0.25, -0.25]])  # fmt: skip


def test_an_advantage_over_the_standard_deviation():
    std = math.sqrt(4 * 0.25 / 3) + 1e-4
    close(group_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0])), [0.5 / std, -0.5 / std, -0.5 / std, 0.5 / std])


def test_where_all_rewards_are_one_there_is_no_advantage():
    assert not group_advantages(torch.ones(2, 4)).any()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, False), (1.5, 1.0, -1.28, True), (1.25, 1.0, -1.25, False), (0.5, 1.0, -0.5, False),
        (0.5, -1.0, 0.8, True), (1.5, -1.0, 1.5, False),
    ],
)  # fmt: skip
def test_the_clip_bounds_a_gain_and_never_a_loss(ratio, advantage, loss, clipped):
    logps = torch.tensor([[math.log(ratio)]], requires_grad=True)
    found, cut = clipped_loss(logps, torch.zeros(1, 1), torch.tensor([advantage]), 0.2, 0.28)
    close(found.detach(), [[loss]])
    assert cut.item() is clipped
    found.sum().backward()
    close(logps.grad, [[0.0 if clipped else -advantage * ratio]])


def test_at_the_weights_that_sampled_the_gradient_is_the_policy_gradient():
    logps = torch.tensor([[-1.0, -3.0], [-2.0, -0.5]], requires_grad=True)
    found, _ = clipped_loss(logps, logps.detach(), torch.tensor([1.5, -0.5]), 0.2, 0.2)
    found.sum().backward()
    close(logps.grad, [[-1.5, -1.5], [0.5, 0.5]])


def test_k3_is_zero_where_policy_and_reference_agree_and_positive_elsewhere():
    reference = torch.log(torch.tensor([0.5, 1.0, 0.25]))
    policy = torch.log(torch.tensor([0.5, 0.5, 0.5]))
    close(k3(policy, reference), [0.0, 2 - math.log(2) - 1, 0.5 + math.log(2) - 1])


def test_k3_is_the_kl_in_the_mean_over_the_policy():
    policy, reference = torch.tensor([0.7, 0.3]), torch.tensor([0.4, 0.6])
    estimate = (policy * k3(policy.log(), reference.log())).sum()
    torch.testing.assert_close(estimate, (policy * (policy / reference).log()).sum())


# Two responses, of 1 and 3 tokens, losses 1 and 2 a token; at most 5 tokens.
@pytest.mark.parametrize(
    ("normalisation", "expected"), [("token", 7 / 4), ("sequence", (1 + 2) / 2), ("constant", 7 / (2 * 5))]
)
def test_a_step_is_divided_by_its_tokens_its_responses_or_a_constant(normalisation, expected):
    values = torch.tensor([[1.0, 9.0, 9.0], [2.0, 2.0, 2.0]])
    mask = torch.tensor([[True, False, False], [True, True, True]])
    objective = GRPOObjective(normalisation=normalisation, **PLAIN)
    assert objective.reduced(values, mask).sum().item() / objective.denominator(4, 2, 5) == pytest.approx(expected)


def tensors(seed):
    """Six responses of up to seven tokens in two groups: log-probs now, then, of a reference; rewards; mask."""
    draw = torch.Generator().manual_seed(seed)
    logps, old, reference = (-3 * torch.rand(6, 7, generator=draw) for _ in range(3))
    rewards = torch.randint(0, 2, (2, 3), generator=draw).float() + torch.rand(2, 3, generator=draw)
    mask = torch.arange(7) < torch.tensor([[7], [1], [4], [2], [6], [3]])
    return logps, old, reference, rewards, mask


NAMES = {"token": "dapo", "sequence": "grpo", "constant": "dr_grpo"}  # TRL's


class Absent(SimpleNamespace):
    """A trainer of which only what is named is set: all else is off."""

    def __getattr__(self, name):
        return None


@pytest.mark.parametrize("kl", [0.0, 0.3])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_losses_are_those_of_trl_on_the_same_tensors(normalisation, kl):
    trl = pytest.importorskip("trl.trainer.grpo_trainer", reason="TRL is of the extra 'bench'")
    logps, old, reference, rewards, mask = tensors(seed=3)
    objective = GRPOObjective(normalisation=normalisation, kl=kl, **PLAIN)
    advantages = group_advantages(rewards).flatten()
    terms = objective(logps, old, advantages, reference)
    found = objective.reduced(terms.loss, mask).sum() / objective.denominator(int(mask.sum()), 6, 9)
    given = (logps, torch.zeros_like(logps))  # and entropies; newer ones give the routers' loss too
    if "aux_loss" in inspect.getsource(trl.GRPOTrainer._compute_loss):
        given += (None,)
    metrics = defaultdict(lambda: defaultdict(list))
    trainer = Absent(
        _get_per_token_logps_and_entropies=lambda *a, **k: given,
        beta=kl, loss_type=NAMES[normalisation], epsilon_low=0.2, epsilon_high=0.28, importance_sampling_level="token",
        max_completion_length=9, top_entropy_quantile=1.0, current_gradient_accumulation_steps=1, _metrics=metrics,
        model=Absent(training=True), args=Absent(steps_per_generation=1),
        accelerator=Absent(
            num_processes=1, gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction: x
        ),
    )  # fmt: skip
    ids = torch.zeros(6, 7, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1] + 1, "completion_ids": ids, "completion_mask": mask.long(),
        "advantages": advantages, "old_per_token_logps": old, "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    torch.testing.assert_close(found, trl.GRPOTrainer._compute_loss(trainer, None, inputs))
    clipped = (terms.clipped & mask).sum() / mask.sum()
    assert metrics["train"]["clip_ratio/region_mean"] == pytest.approx([clipped.item()])
