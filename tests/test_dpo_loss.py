"""The DPO loss against numbers of other implementations and against its own invariants."""

import math

import pytest
import torch

from rationale.objectives.dpo import PairLogps, dpo_loss


def pair(chosen, rejected):
    return PairLogps(torch.tensor(chosen), torch.tensor(rejected))


# torchtune tests/torchtune/rlhf/loss/test_dpo_loss.py; beta = 0.1, margins 0, 1, 2
TORCHTUNE = (
    pair([-0.5, -10.0, -1.0], [-0.1, -30.0, -21.0]),
    pair([-0.5, -10.1, -0.1], [-0.1, -20.1, -0.1]),
)
# LLaMA-Factory tests_v1/trainers/test_dpo_loss_precision.py; log-ratio margins 1.6, 0.6, 1.6, 0.6
LLAMA_FACTORY = (
    pair([-3.0, -2.5, -4.0, -1.5], [-5.0, -3.5, -6.0, -2.5]),
    pair([-2.8, -2.3, -3.8, -1.4], [-3.2, -2.7, -4.2, -1.8]),
)


def close(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("loss_type", "epsilon", "expected"),
    [
        ("sigmoid", 0.0, [0.693147, 0.313262, 0.126928]),
        ("sigmoid", 0.1, [0.693147, 0.413262, 0.326928]),
        ("robust", 0.1, [0.693147, 0.188262, -0.123072]),
        ("hinge", 0.0, [1.0, 0.0, 0.0]),
    ],
)
def test_losses_on_torchtune_fixture(loss_type, epsilon, expected):
    close(dpo_loss(*TORCHTUNE, beta=0.1, loss_type=loss_type, label_smoothing=epsilon).loss, expected)


def test_ipo_on_torchtune_fixture():
    loss = dpo_loss(*TORCHTUNE, beta=0.1, loss_type="ipo").loss
    torch.testing.assert_close(loss, torch.tensor([25.0, 25.0, 225.0]))  # (0 - 5)^2, (10 - 5)^2, (20 - 5)^2


def test_rewards_on_torchtune_fixture():
    terms = dpo_loss(*TORCHTUNE, beta=0.1)
    close(terms.chosen_rewards, [0.0, 0.01, -0.09])
    close(terms.rejected_rewards, [0.0, -0.99, -2.09])


def test_zero_reference_gives_the_reference_free_loss_on_torchtune_fixture():
    policy, zeros = TORCHTUNE[0], torch.zeros(3)
    close(dpo_loss(policy, PairLogps(zeros, zeros), beta=0.1).loss, [0.713347, 0.126928, 0.126928])


@pytest.mark.parametrize(
    ("beta", "epsilon", "expected"),
    [
        (0.1, 0.0, [0.616344, 0.663597]),
        (0.1, 0.1, [0.632344, 0.669597]),
        (0.1, 0.5, [0.696344, 0.693597]),
        (0.5, 0.0, [0.371101, 0.554355]),
        (0.5, 0.1, [0.451101, 0.584355]),
        (0.5, 0.5, [0.771101, 0.704355]),
    ],
)
def test_sigmoid_on_llama_factory_fixture(beta, epsilon, expected):
    close(dpo_loss(*LLAMA_FACTORY, beta=beta, label_smoothing=epsilon).loss, expected * 2)


def test_mean_on_llama_factory_fixture():
    close(dpo_loss(*LLAMA_FACTORY, beta=0.1).loss.mean(), 0.639970)


@pytest.mark.parametrize(("loss_type", "epsilon"), [("sigmoid", 0.0), ("sigmoid", 0.3), ("robust", 0.3)])
def test_first_loss_is_log_2(loss_type, epsilon):
    policy = TORCHTUNE[0]
    close(dpo_loss(policy, policy, 0.1, loss_type, epsilon).loss, [math.log(2)] * 3)


def test_gradient_raises_chosen_and_lowers_rejected():
    chosen, rejected = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    zero = PairLogps(torch.zeros(2), torch.zeros(2))
    dpo_loss(PairLogps(chosen, rejected), zero, beta=0.1).loss.sum().backward()
    torch.testing.assert_close(chosen.grad, torch.full((2,), -0.05))  # -beta * sigmoid(0)
    torch.testing.assert_close(rejected.grad, torch.full((2,), 0.05))


def test_smoothing_of_one_half_is_symmetric_under_swap():
    policy, reference = LLAMA_FACTORY
    swapped = PairLogps(*reversed(policy)), PairLogps(*reversed(reference))
    loss = dpo_loss(policy, reference, 0.1, label_smoothing=0.5).loss
    torch.testing.assert_close(loss, dpo_loss(*swapped, 0.1, label_smoothing=0.5).loss)


def test_robust_loss_undoes_the_noise_on_average():
    policy, reference = LLAMA_FACTORY
    swapped = PairLogps(*reversed(policy)), PairLogps(*reversed(reference))
    right = dpo_loss(policy, reference, 0.1, "robust", 0.2).loss
    wrong = dpo_loss(*swapped, 0.1, "robust", 0.2).loss
    torch.testing.assert_close(0.8 * right + 0.2 * wrong, dpo_loss(policy, reference, 0.1).loss)


@pytest.mark.parametrize("loss_type", ["sigmoid", "robust", "hinge"])
def test_a_better_chosen_response_lowers_the_loss(loss_type):
    zero = PairLogps(torch.zeros(2), torch.zeros(2))
    worse, better = dpo_loss(pair([-1.0, 1.0], [0.0, 0.0]), zero, 0.1, loss_type).loss
    assert better < worse


def test_rewards_are_detached():
    policy = PairLogps(torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True))
    terms = dpo_loss(policy, pair([0.0, 0.0], [0.0, 0.0]), beta=0.1)
    assert terms.loss.requires_grad
    assert not terms.chosen_rewards.requires_grad and not terms.rejected_rewards.requires_grad


def test_loss_is_per_example():
    assert dpo_loss(*LLAMA_FACTORY, beta=0.1).loss.shape == (4,)


def test_distant_policies_give_a_finite_loss():
    zero = PairLogps(torch.zeros(1), torch.zeros(1))
    close(dpo_loss(pair([-1e4], [1e4]), zero, beta=0.1).loss, [2000.0])


def test_unknown_loss_type_is_named_with_what_exists():
    with pytest.raises(ValueError, match="'kto'; known: sigmoid, robust, hinge, ipo"):
        dpo_loss(*TORCHTUNE, beta=0.1, loss_type="kto")


@pytest.mark.parametrize(
    ("loss_type", "epsilon"), [("sigmoid", -0.1), ("sigmoid", 0.6), ("robust", 0.5), ("hinge", 0.1), ("ipo", 0.1)]
)
def test_smoothing_that_does_not_fit_the_loss_is_refused(loss_type, epsilon):
    with pytest.raises(ValueError, match=r"sigmoid takes 0 to 0.5, robust 0 to below 0.5, the others only 0"):
        dpo_loss(*TORCHTUNE, beta=0.1, loss_type=loss_type, label_smoothing=epsilon)


@pytest.mark.parametrize("beta", [0.0, -0.1, math.nan])
def test_beta_that_is_not_positive_is_refused(beta):
    with pytest.raises(ValueError, match="beta must be positive"):
        dpo_loss(*TORCHTUNE, beta=beta)


def test_shapes_that_would_broadcast_are_refused():
    policy, reference = TORCHTUNE
    column = PairLogps(reference.chosen[:, None], reference.rejected[:, None])
    with pytest.raises(ValueError, match="must share one shape"):
        dpo_loss(policy, column, beta=0.1)
