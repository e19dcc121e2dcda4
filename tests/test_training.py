"""Training as a whole: the first preference loss, the three references, accumulation, a cut and a resume."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from fitting import LORA, QUIET, fit, furthest, preference, sft, weights
from torch.nn.functional import logsigmoid

from rationale.artifacts import UserError
from rationale.models.encode import Encoder
from rationale.models.logps import computing, response_logps
from rationale.models.prefill import trained_logps
from rationale.models.vlm import VLM, freeze, load
from rationale.objectives.dpo import DPOTerms, Objective, PairLogps
from rationale.schema import RowError
from rationale.training import dpo as dpo_module
from rationale.training.dpo import DPOModule, dpo_data
from rationale.training.optim import Optim
from rationale.training.plan import plan
from rationale.training.sft import SFTModule, sft_data


class Losses(pl.Callback):
    """Loss of every step, as the loop saw it."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, module, outputs, *_):
        assert module.policy.training
        self.values.append(outputs["loss"].item())


def losses(module, data, **settings):
    seen = Losses()
    QUIET(
        **settings, max_epochs=1, callbacks=[seen], logger=False, enable_checkpointing=False, enable_model_summary=False
    ).fit(module, data)
    return seen.values


def scorer_of(vlm):
    """Stored reference log-probs, computed once by the starting model in evaluation mode."""
    start = copy.deepcopy(vlm)
    start.model.eval()
    return lambda example: response_logps(start.model, Encoder(start.processor).batch([example]))[0].tolist()


@pytest.fixture
def with_dropout(tiny_dir):
    """A LoRA policy whose dropout is live, in adapters and attention, as models come."""
    torch.manual_seed(0)
    vlm = load(str(tiny_dir), lora=LORA)
    for module in vlm.model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.3
    return vlm


@pytest.mark.parametrize("reference", ["frozen", "adapter_off", "scored"])
def test_the_first_preference_loss_is_log_2_in_training_mode(reference, with_dropout, examples):
    stored = scorer_of(with_dropout) if reference == "scored" else None
    module, data = preference(with_dropout, examples, reference, stored)
    assert losses(module, data)[0] == pytest.approx(math.log(2), abs=1e-6)


def test_the_three_references_give_the_same_losses(tiny_dir, examples):
    curves = []
    for reference in ("frozen", "adapter_off", "scored"):
        torch.manual_seed(0)
        vlm = load(str(tiny_dir), lora=LORA)
        stored = scorer_of(vlm) if reference == "scored" else None
        curves.append(losses(*preference(vlm, examples, reference, stored)))
    assert curves[0][-1] < math.log(2)
    torch.testing.assert_close(torch.tensor(curves[1]), torch.tensor(curves[0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.tensor(curves[2]), torch.tensor(curves[0]), atol=1e-5, rtol=0)


def half_scorer_of(vlm):
    """What stage score stores for a training in bf16-mixed."""
    start = copy.deepcopy(vlm)
    start.model.eval()

    def stored(example):
        with computing("bf16-mixed", start.model.device):
            return trained_logps(start.model, Encoder(start.processor, layout="tree"), [example])[0]

    return stored


def test_the_three_references_give_nearly_the_same_losses_in_bf16(tiny_dir, examples):
    curves = []
    for reference in ("frozen", "adapter_off", "scored"):
        torch.manual_seed(0)
        vlm = load(str(tiny_dir), lora=LORA)
        stored = half_scorer_of(vlm) if reference == "scored" else None
        module, data = preference(vlm, examples, reference, stored, layout="tree")
        curves.append(losses(module, data, precision="bf16-mixed"))
    assert curves[0][0] == pytest.approx(math.log(2), abs=1e-6)
    torch.testing.assert_close(torch.tensor(curves[1]), torch.tensor(curves[0]), atol=0.01, rtol=0)
    torch.testing.assert_close(torch.tensor(curves[2]), torch.tensor(curves[0]), atol=0.01, rtol=0)


def test_a_stored_reference_of_another_model_is_refused_in_bf16_too(tiny_dir, examples):
    vlm = load(str(tiny_dir))
    other = copy.deepcopy(vlm)
    with torch.no_grad():
        other.model.get_output_embeddings().weight.mul_(-4)
    module, data = preference(vlm, examples, "scored", half_scorer_of(other), layout="tree")
    with pytest.raises(UserError, match="the first loss would not be log 2"):
        losses(module, data, precision="bf16-mixed")


@pytest.mark.parametrize("reference", ["frozen", "adapter_off", "scored"])
def test_shared_prefixes_give_the_losses_of_plain_rows(reference, tiny_dir, examples):
    curves = []
    for layout in ("rows", "tree"):
        torch.manual_seed(0)
        vlm = load(str(tiny_dir), lora=LORA)
        stored = scorer_of(vlm) if reference == "scored" else None
        curves.append(losses(*preference(vlm, examples, reference, stored, layout=layout)))
    torch.testing.assert_close(torch.tensor(curves[1]), torch.tensor(curves[0]), atol=1e-5, rtol=0)


def test_shared_prefixes_give_the_losses_of_plain_rows_under_gradient_checkpointing(tiny_dir, examples):
    curves = []
    for layout in ("rows", "tree"):
        vlm = load(str(tiny_dir))
        vlm.model.gradient_checkpointing_enable({"use_reentrant": False})
        curves.append(losses(*preference(vlm, examples, "frozen", layout=layout)))
    torch.testing.assert_close(torch.tensor(curves[1]), torch.tensor(curves[0]), atol=1e-5, rtol=0)


def test_a_step_of_questions_weighs_every_pair_alike(tiny_dir, examples):
    """Two pairs of one question and two of others, in steps of two and three groups that hold all four pairs."""
    whole = []
    for group_by in ("pair", "question"):
        vlm = load(str(tiny_dir))
        pairs = [(replace(examples[0], response=a.response), replace(examples[0], response=b.response))
                 for a, b in zip(examples[:2], examples[2:4], strict=True)]  # fmt: skip
        pairs += [(e, replace(e, response="so")) for e in examples[4:6]]
        order = partial(plan, micro_batch=4 if group_by == "pair" else 3, accumulate=1, epochs=3, seed=0)
        data = dpo_data(Encoder(vlm.processor, layout="tree"), pairs, order, None, group_by)
        module = DPOModule(vlm, Objective(), "frozen", Optim(lr=1e-3), data.plan.num_steps)
        assert len(data.plan.micro_batches) == 3
        whole.append(losses(module, data))
    torch.testing.assert_close(torch.tensor(whole[1]), torch.tensor(whole[0]), atol=1e-5, rtol=0)


def test_rows_of_text_alone_are_grouped_by_prompt(tiny, examples):
    text = [replace(examples[0], images=(), prompt=prompt) for prompt in ("one", "two", "one", "three")]
    order = partial(plan, micro_batch=1, accumulate=1, epochs=1, seed=0)
    data = sft_data(Encoder(tiny.processor), text, order, group_by="image")
    assert sorted(data.plan.micro_batches) == [[0, 2], [1], [3]]


def test_batches_built_ahead_are_those_built_when_due(tiny, examples, tmp_path):
    trained = []
    for workers in (0, 2):
        torch.manual_seed(0)
        vlm = VLM(copy.deepcopy(tiny.model), tiny.processor, "tiny")
        data = sft_data(Encoder(vlm.processor), examples, partial(plan, micro_batch=2, accumulate=1, epochs=1, seed=0))
        module, out = SFTModule(vlm, Optim(lr=1e-2), data.plan.num_steps), tmp_path / str(workers)
        fit(module, data, out, workers=workers)
        trained.append(weights(vlm))
    assert furthest(*trained) == 0


def test_the_frozen_reference_does_not_move_and_has_no_gradient(tiny, examples):
    module, data = preference(tiny, examples, "frozen")
    before = {k: v.clone() for k, v in module.frozen.state_dict().items()}
    losses(module, data)
    assert furthest(before, module.frozen.state_dict()) == 0
    assert not any(p.requires_grad or p.grad is not None for p in module.frozen.parameters())
    assert furthest(before, weights(tiny)) > 0


def test_adapter_off_without_lora_is_refused(tiny, examples):
    module, data = preference(tiny, examples, "adapter_off")
    with pytest.raises(UserError, match="needs a LoRA policy"):
        losses(module, data)


def test_a_stale_stored_reference_stops_before_the_first_step(tiny, examples):
    lengths = scorer_of(tiny)
    module, data = preference(tiny, examples, "scored", lambda e: [value - 1.0 for value in lengths(e)])
    with pytest.raises(UserError, match="at step 0"):
        losses(module, data)


def test_stored_log_probs_of_another_length_are_refused(tiny, examples):
    module, data = preference(tiny, examples, "scored", lambda e: [0.0])
    with pytest.raises(RowError, match="1 stored reference log-probs for"):
        losses(module, data)


def test_sft_weights_do_not_depend_on_how_a_step_is_cut(tiny_dir, examples, tmp_path):
    whole = sft(load(str(tiny_dir)), examples, tmp_path / "a", micro=8, accumulate=1, epochs=3)
    cut = sft(load(str(tiny_dir)), examples, tmp_path / "b", micro=2, accumulate=4, epochs=3)
    assert furthest(whole, cut) < 5e-5  # of steps of 1e-2


def test_dpo_losses_do_not_depend_on_how_a_step_is_cut(tiny_dir, examples):
    after = []
    for micro in (4, 1):
        vlm = load(str(tiny_dir))
        module, data = preference(vlm, examples, "frozen", micro=micro)
        QUIET(max_epochs=1, accumulate_grad_batches=4 // micro, logger=False, enable_checkpointing=False).fit(
            module, data
        )
        after.append(weights(vlm))
    assert furthest(*after) < 3e-5  # of steps of 1e-3


def test_training_learns_the_examples(tiny_dir, examples, tmp_path):
    vlm = load(str(tiny_dir))
    batch = Encoder(vlm.processor).batch(examples)
    before = response_logps(vlm.model, batch).sum().item()
    sft(vlm, examples, tmp_path / "out", epochs=30)
    assert response_logps(vlm.model, batch).sum().item() > before / 4


def test_a_run_cut_in_the_middle_ends_with_the_weights_of_an_uncut_one(tiny_dir, examples, tmp_path):
    uncut = sft(load(str(tiny_dir)), examples, tmp_path / "uncut", micro=4, epochs=4)

    vlm, optim = load(str(tiny_dir)), Optim(lr=1e-2)
    order = partial(plan, micro_batch=4, accumulate=1, epochs=4, seed=0)
    data = sft_data(Encoder(vlm.processor), examples, order)
    collate, calls = data.collate, iter(range(100))

    def five_batches(*args):
        if next(calls) == 5:
            raise OSError("the power went")
        return collate(*args)

    data.collate = five_batches
    with pytest.raises(OSError, match="the power went"):
        fit(SFTModule(vlm, optim, data.plan.num_steps), data, tmp_path / "cut", save_every=1)
    resumed = sft(load(str(tiny_dir)), examples, tmp_path / "cut", micro=4, epochs=4)
    assert furthest(uncut, resumed) == 0


def test_a_frozen_part_does_not_move(tiny_dir, examples, tmp_path):
    vlm = load(str(tiny_dir))
    before = weights(vlm)
    freeze(vlm.model, ["vision_tower"])
    after = sft(vlm, examples, tmp_path / "out")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert not any("vision_tower" in name for name in moved)


def test_each_part_takes_its_own_learning_rate(tiny_dir, examples, tmp_path):
    vlm = load(str(tiny_dir))
    before = weights(vlm)
    after = sft(vlm, examples, tmp_path / "out", optim=Optim(lr=1e-2, part_lrs={"vision_tower": 0.0}))
    assert all(torch.equal(before[n], after[n]) for n in before if "vision_tower" in n)
    assert not torch.equal(before["lm_head.weight"], after["lm_head.weight"])


def test_a_loss_that_is_not_a_number_stops_the_run(tiny, examples, tmp_path):
    with torch.no_grad():
        tiny.model.model.language_model.norm.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="loss is nan at step 1"):
        sft(tiny, examples, tmp_path / "out")


def mean_nll(vlm, examples) -> float:
    """Of the tokens of all examples' responses."""
    batch = Encoder(vlm.processor).batch(examples)
    return -response_logps(vlm.model, batch).sum().item() / batch.mask.sum().item()


def test_the_sft_term_is_the_mean_over_the_tokens_of_the_chosen(tiny, examples):
    expected = math.log(2) + 0.5 * mean_nll(tiny, examples[:4])
    mixed = losses(*preference(tiny, examples, "frozen", objective=Objective(sft_weight=0.5)))[0]
    assert mixed == pytest.approx(expected, rel=1e-5)


class SimPO(Objective):
    """Meng et al., 2024, Eq. 6 without its margin: the policy alone, log-probs a token."""

    needs_reference = False

    def __call__(self, policy, reference):
        assert reference is None
        rewards = [self.beta * side for side in policy]
        return DPOTerms(-logsigmoid(rewards[0] - rewards[1]), *(reward.detach() for reward in rewards))


@pytest.mark.parametrize("reference", ["frozen", "scored"])
def test_a_loss_without_a_reference_is_trained_without_one(reference, tiny, examples, monkeypatch):
    passes, logps = [], dpo_module.response_logps

    def counted(model, batch):
        passes.append(model)
        return logps(model, batch)

    monkeypatch.setattr(dpo_module, "response_logps", counted)
    module, data = preference(tiny, examples, reference, objective=SimPO(beta=2.0, length_normalised=True))
    means = [-mean_nll(tiny, [side]) for side in (examples[0], replace(examples[0], response=examples[4].response))]
    first = module.objective(PairLogps(*torch.tensor(means)[:, None]), None).loss.item()
    assert module.measure(data.collate([0], [0]))[1]["loss"].item() == pytest.approx(first, rel=1e-4)
    seen = losses(module, data)
    assert seen[-1] < seen[0]
    assert module.frozen is None and all(network is module.policy for network in passes)
    assert len(passes) == 1 + len(data.plan.micro_batches)


class ByChosen(Objective):
    """A loss that differs from pair to pair from the first step on."""

    def __call__(self, policy, reference):
        return DPOTerms(-policy.chosen, policy.chosen.detach(), policy.rejected.detach())


# Four rows in one step: at once; 1, 1 and 2; and in six micro-batches, two of the rows in two of them each.
@pytest.mark.parametrize(("micro", "accumulate"), [(4, 1), (2, 3), (1, 6)])
def test_what_is_logged_of_a_step_is_the_mean_over_it_however_it_is_cut(micro, accumulate, tiny_dir, examples):
    order = partial(plan, micro_batch=micro, accumulate=accumulate, epochs=1, seed=0)
    vlm = load(str(tiny_dir))
    batch = Encoder(vlm.processor).batch(examples[:4])
    sums, tokens = response_logps(vlm.model, batch).sum(1).tolist(), batch.mask.sum().item()
    pairs = [(a, replace(a, response="no", ended=False)) for a in examples[:4]]
    more = len(vlm.tokenizer("no")["input_ids"])
    encoder, optim = Encoder(vlm.processor), Optim(lr=1e-3)
    for module, data, expected in (
        (DPOModule(vlm, ByChosen(), "frozen", optim, 1), dpo_data(encoder, pairs, order),
         {"train/loss": -sum(sums) / 4, "rewards/chosen": sum(sums) / 4, "train/tokens": tokens + 4 * more}),
        (SFTModule(load(str(tiny_dir)), optim, 1), sft_data(encoder, examples[:4], order),
         {"train/loss": -sum(sums) / tokens, "train/tokens": tokens}),
    ):  # fmt: skip
        trainer = QUIET(max_epochs=1, accumulate_grad_batches=accumulate, logger=False, enable_checkpointing=False)
        trainer.fit(module, data)
        assert {name: trainer.callback_metrics[name].item() for name in expected} == pytest.approx(expected, rel=1e-5)


def test_what_is_left_out_is_counted_and_a_smaller_last_step_is_trained(tiny_dir, examples, tmp_path):
    """Eight examples, steps of three: two are left out of each of two epochs, or are a step of their own."""
    counted = []
    for drop_last in (True, False):
        vlm, optim = load(str(tiny_dir)), Optim(lr=1e-2)
        order = partial(plan, micro_batch=1, accumulate=3, epochs=2, seed=1, drop_last=drop_last)
        data = sft_data(Encoder(vlm.processor), examples, order)
        module = SFTModule(vlm, optim, data.plan.num_steps)
        found = fit(module, data, tmp_path / str(drop_last), save_every=9)
        counted.append({name: found[name] for name in ("steps", "left_out", "never_trained_on")})
    one, two = plan(range(8), 1, 3, 2, seed=1).left_out  # which depends on no length
    assert counted == [
        {"steps": 4, "left_out": [2, 2], "never_trained_on": len({*one} & {*two})},
        {"steps": 6, "left_out": [0, 0], "never_trained_on": 0},
    ]
