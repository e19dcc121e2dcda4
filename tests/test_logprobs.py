"""Log-probabilities: alignment, masking and precision."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from rationale.models.encode import Encoder
from rationale.models.logps import response_logps
from rationale.objectives.dpo import PairLogps, dpo_loss
from rationale.objectives.logprobs import sequence_logps, shifted, token_logps
from rationale.objectives.sft import sft_loss


def logits_scoring(logps, labels, vocab):
    """(1, T, V) logits that give labels[t] probability exp(logps[t]), the rest shared by the other words."""
    rows = []
    for logp, label in zip(logps, labels, strict=True):
        row = torch.full((vocab,), math.log((1 - math.exp(logp)) / (vocab - 1)))
        row[label] = logp
        rows.append(row)
    return torch.stack(rows).unsqueeze(0)


def test_uniform_logits_give_minus_log_v():
    logps = token_logps(torch.zeros(1, 3, 10), torch.tensor([[4, 0, 9]]))
    torch.testing.assert_close(logps, torch.full((1, 3), -math.log(10)))


def test_position_t_scores_label_t():
    logits = logits_scoring([-1.0, -2.0, -3.0], [2, 0, 1], vocab=5)
    torch.testing.assert_close(token_logps(logits, torch.tensor([[2, 0, 1]])), torch.tensor([[-1.0, -2.0, -3.0]]))


def test_shifted_lets_position_t_predict_the_next_label():
    logits, labels = torch.arange(6.0).view(1, 3, 2), torch.tensor([[7, 8, 9]])
    aligned_logits, aligned_labels = shifted(logits, labels)
    assert aligned_logits.tolist() == [[[0, 1], [2, 3]]]
    assert aligned_labels.tolist() == [[8, 9]]


def test_agrees_with_cross_entropy():
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 1, -100, 6, 2], [-100, -100, 3, 4, 5]])
    expected = -F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(2, 5)
    torch.testing.assert_close(token_logps(logits, labels), expected)


def test_masked_positions_give_zero_and_take_no_gradient():
    logits = torch.randn(1, 3, 4, requires_grad=True)
    logps = token_logps(logits, torch.tensor([[-100, 2, -100]]))
    logps.sum().backward()
    assert logps[0, 0] == logps[0, 2] == 0
    assert logits.grad[0, 0].abs().sum() == logits.grad[0, 2].abs().sum() == 0
    assert logits.grad[0, 1].abs().sum() > 0


def test_gradient_is_one_hot_minus_probability():
    logits = torch.zeros(1, 1, 4, requires_grad=True)
    token_logps(logits, torch.tensor([[1]])).sum().backward()
    torch.testing.assert_close(logits.grad[0, 0], torch.tensor([-0.25, 0.75, -0.25, -0.25]))


def test_bfloat16_logits_give_float32_logps():
    logits = torch.randn(2, 3, 50).bfloat16()
    labels = torch.randint(50, (2, 3))
    logps = token_logps(logits, labels)
    assert logps.dtype == torch.float32
    torch.testing.assert_close(logps, token_logps(logits.float(), labels), rtol=0, atol=0)


def test_large_logits_do_not_overflow():
    logps = token_logps(torch.tensor([[[1000.0, 0.0]]]), torch.tensor([[1]]))
    assert logps.tolist() == [[-1000.0]]


def test_a_negative_label_other_than_the_mask_is_refused():
    with pytest.raises((RuntimeError, IndexError)):  # -200 marks an image in some collators
        token_logps(torch.zeros(1, 1, 4), torch.tensor([[-200]]))


def test_sum_and_average_on_two_unmasked_labels_of_ten_words():
    """eric-mitchell/direct-preference-optimization, `_get_batch_logps`: uniform logits."""
    logits, labels = shifted(torch.zeros(1, 4, 10), torch.tensor([[-100, -100, 3, 5]]))
    logps, mask = token_logps(logits, labels), labels != -100
    torch.testing.assert_close(sequence_logps(logps, mask), torch.tensor([-4.6052]), rtol=0, atol=5e-5)
    torch.testing.assert_close(sequence_logps(logps, mask, average=True), torch.tensor([-2.3026]), rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    ("labels", "average"), [([0, 1, 2, 3], -2.0), ([0, 1, 2, -100], -1.5), ([-100, -100, -100, -100], 0.0)]
)
def test_average_on_open_instruct_rows(labels, average):
    """open-instruct, `TestGetBatchLogps`: position t scores label t + 1 at -1, -2, -3, so the last (-4) is unused."""
    full_logits = logits_scoring([-1.0, -2.0, -3.0, -4.0], [1, 2, 3, 0], vocab=5)
    logits, labels = shifted(full_logits, torch.tensor([labels]))
    logps = token_logps(logits, labels)
    torch.testing.assert_close(sequence_logps(logps, labels != -100, average=True), torch.tensor([average]))


def test_fully_masked_row_averages_to_zero_with_zero_gradient():
    logps = torch.full((2, 3), -1.0, requires_grad=True)
    averages = sequence_logps(logps, torch.tensor([[0, 0, 0], [1, 1, 0]]), average=True)
    averages.sum().backward()
    assert averages.tolist() == [0.0, -1.0]
    assert logps.grad.tolist() == [[0, 0, 0], [0.5, 0.5, 0]]


def test_what_stands_at_a_masked_token_does_not_reach_the_sum():
    logps = torch.tensor([[float("-inf"), -1.0], [float("nan"), -2.0]])
    assert sequence_logps(logps, torch.tensor([[False, True], [False, True]])).tolist() == [-1.0, -2.0]


def test_bfloat16_logits_move_a_log_prob_no_further_than_their_own_rounding():
    """bfloat16 rounds by at most 2^-9 of a value; the label's logit and the log-sum each move by no more than the
    largest logit does. In bfloat16 itself the sum would lose more."""
    logits = 8 * torch.randn(64, 16, 500, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(500, (64, 16), generator=torch.Generator().manual_seed(1))
    moved = (token_logps(logits.bfloat16(), labels) - token_logps(logits, labels)).abs().max().item()
    bound = 2 * 2**-9 * logits.abs().max().item()
    assert moved <= bound
    within = F.log_softmax(logits.bfloat16(), -1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    assert (within.float() - token_logps(logits, labels)).abs().max() > bound / 2 > 0
    assert moved > bound / 100


@torch.no_grad()
@pytest.mark.parametrize("layout", ["rows", "tree"])
def test_log_probs_of_a_model_under_bf16_autocast_are_near_those_in_float32(layout, tiny, examples):
    batch = Encoder(tiny.processor, layout=layout).batch(examples)
    exact = response_logps(tiny.model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = response_logps(tiny.model, batch)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, atol=0.03, rtol=0)  # of values near -6


@pytest.mark.parametrize("layout", ["rows", "tree"])
@pytest.mark.parametrize("others", [0, 2])
def test_responses_without_a_token_give_zero_and_a_finite_gradient(layout, others, tiny, examples):
    """Of sft_loss; and a pair of them log 2, as for any pair that policy and reference agree on."""
    empty = [replace(e, response="", ended=False) for e in examples[:2]]
    batch = Encoder(tiny.processor, layout=layout).batch(empty + examples[2 : 2 + others])
    logps = response_logps(tiny.model, batch)
    sums = sequence_logps(logps, batch.mask)
    nothing = PairLogps(torch.zeros(1), torch.zeros(1))
    pair = dpo_loss(PairLogps(sums[:1], sums[1:2]), nothing, beta=0.1).loss
    assert sft_loss(logps[:2], batch.mask[:2]).item() == 0
    assert pair.item() == pytest.approx(math.log(2))
    (sft_loss(logps, batch.mask) + pair.sum()).backward()
    gradients = [p.grad for p in tiny.model.parameters() if p.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)
    assert any(g.any() for g in gradients) == bool(others)
