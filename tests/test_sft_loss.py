"""The SFT loss: a mean over the optimizer step, however the batch is cut."""

import pytest
import torch

from rationale.objectives.sft import sft_loss

LOGPS = torch.tensor([[-1.0, -2.0, -3.0], [-5.0, -9.0, -9.0]])
MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])


def gradient(reduction, denominator, cuts):
    """Gradient of the summed losses of the micro-batches that `cuts` (a list of row slices) makes."""
    logps = LOGPS.clone().requires_grad_()
    for rows in cuts:
        sft_loss(logps[rows], MASK[rows], denominator, reduction).backward()
    return logps.grad


def test_token_mean_weighs_every_response_token_alike():
    assert sft_loss(LOGPS, MASK).item() == 2.75  # (1 + 2 + 3 + 5) / 4


def test_sequence_mean_weighs_every_response_alike():
    assert sft_loss(LOGPS, MASK, reduction="sequence").item() == 3.5  # (2 + 5) / 2


@pytest.mark.parametrize(("reduction", "denominator"), [("token", 4), ("sequence", 2)])
def test_cutting_into_micro_batches_does_not_change_the_gradient(reduction, denominator):
    whole = gradient(reduction, None, [slice(0, 2)])
    torch.testing.assert_close(gradient(reduction, denominator, [slice(0, 1), slice(1, 2)]), whole)


def test_without_the_step_denominator_the_cut_would_change_the_gradient():
    whole = gradient("token", None, [slice(0, 2)])
    cut = gradient("token", None, [slice(0, 1), slice(1, 2)]) / 2
    assert whole[1, 0] == -0.25 and cut[1, 0] == -0.5


def test_gradient_is_minus_one_over_the_number_of_tokens():
    expected = torch.tensor([[-0.25, -0.25, -0.25], [-0.25, 0.0, 0.0]])
    torch.testing.assert_close(gradient("token", None, [slice(0, 2)]), expected)


@pytest.mark.parametrize("reduction", ["token", "sequence"])
@pytest.mark.parametrize("denominator", [None, 0, torch.tensor(0)])
def test_fully_masked_batch_gives_zero_with_zero_gradient(reduction, denominator):
    logps = LOGPS.clone().requires_grad_()
    loss = sft_loss(logps, torch.zeros_like(MASK), denominator, reduction)
    loss.backward()  # a rank without response tokens still takes part in the step
    assert loss.item() == 0
    assert logps.grad.abs().sum() == 0


def test_empty_response_does_not_dilute_the_sequence_mean():
    logps, mask = torch.tensor([[-4.0, -2.0], [-1.0, -1.0]]), torch.tensor([[1, 1], [0, 0]])
    assert sft_loss(logps, mask, reduction="sequence").item() == 3.0


def test_denominator_below_one_is_taken_as_it_is():
    assert sft_loss(torch.tensor([[-1.0]]), torch.tensor([[1]]), denominator=0.5).item() == 2.0


def test_denominator_may_be_a_tensor():
    assert sft_loss(LOGPS, MASK, torch.tensor(11)).item() == 1.0


def test_unknown_reduction_is_named_with_what_exists():
    with pytest.raises(ValueError, match="'mean'; known: token, sequence"):
        sft_loss(LOGPS, MASK, reduction="mean")
