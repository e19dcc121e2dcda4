"""Online reinforcement learning as a whole: samples, groups, cuts, several updates, a cut run, what a stop keeps."""

from __future__ import annotations

import json
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from fitting import LORA, QUIET, beside, csv, fit, furthest, weights

from rationale.artifacts import UserError
from rationale.models import generate as generating
from rationale.models.batch import Example
from rationale.models.encode import Encoder
from rationale.models.logps import response_logps
from rationale.models.vlm import load
from rationale.prompts import prompt_text
from rationale.scoring.judge import Verdict
from rationale.stages import grpo
from rationale.tools.replay import replayed
from rationale.training import grpo as grpo_module
from rationale.training.grpo import Group, GRPOModule, grpo_data
from rationale.training.nonfinite import Recipe
from rationale.training.plan import plan
from rationale.training.settings import GRPOSettings

OBJECTIVE = {"divide_by_std": True, "clip_low": 0.2, "clip_high": 0.28, "normalisation": "token"}
SETTINGS = {
    "objective": OBJECTIVE, "rollout": {"style": "cot", "num_samples": 4, "max_new_tokens": 5}, "optim": {"lr": 1e-4},
    "batch": {"micro_batch_size": 4}, "save_every": 1, "trainer": QUIET, "layout": "tree",
}  # fmt: skip


@pytest.fixture(autouse=True)
def rewarded(monkeypatch):
    """A random model is never right; here a text of an even number of letters is."""
    monkeypatch.setattr(grpo_module, "judge", lambda question, text, style: Verdict(text, float(len(text) % 2 == 0)))


@pytest.fixture
def asked(questions, questions_dir):
    found = [q for q in questions if q.split == "train"][:4]
    return [(q, Example(q.question_id, q.files(questions_dir), prompt_text(q, "cot"), "")) for q in found]


def online(vlm, asked, micro=4, accumulate=1, epochs=3, held=0, **changed):
    """A module and its data: all questions in every step."""
    settings = GRPOSettings(**SETTINGS | changed)
    order = partial(plan, micro_batch=micro, accumulate=accumulate, epochs=epochs, seed=0)
    data = grpo_data(len(asked) - held, order, settings.updates, held)
    module = GRPOModule(vlm, Encoder(vlm.processor, layout=settings.layout), asked, settings, data.plan.num_steps, 0)
    data.recipe = module.recipe
    return module, data


class Seen(pl.Callback):
    """Of each step what is logged and what was sampled."""

    def __init__(self):
        self.logged, self.texts = [], []

    def on_train_batch_end(self, trainer, module, *_):
        if "train/loss" in trainer.callback_metrics and len(self.logged) < trainer.global_step:
            self.logged.append({name: value.item() for name, value in trainer.callback_metrics.items()})
            self.texts.append({i: group.texts for i, group in sorted(module.groups.items())})


def trained(path, asked, out, **given):
    vlm, seen = load(str(path)), Seen()
    module, data = online(vlm, asked, **given)
    fit(module, data, out, beside(seen))
    return weights(vlm), seen, module


@pytest.mark.parametrize(
    ("normalisation", "kl", "updates"), [("token", 0.0, 1), ("sequence", 0.1, 1), ("constant", 0.1, 2)]
)
def test_samples_log_and_weights_do_not_depend_on_how_a_step_is_cut(
    normalisation, kl, updates, tiny_dir, asked, tmp_path
):
    given = {"objective": OBJECTIVE | {"normalisation": normalisation, "kl": kl}, "updates": updates}
    whole, one, _ = trained(tiny_dir, asked, tmp_path / "whole", **given)
    for micro in (1, 2):
        cut, other, _ = trained(tiny_dir, asked, tmp_path / str(micro), micro=micro, accumulate=4 // micro, **given)
        assert other.texts == one.texts
        for here, there in zip(other.logged, one.logged, strict=True):
            assert {**here, "train/padding": 0} == pytest.approx({**there, "train/padding": 0}, abs=1e-5)
        assert furthest(whole, cut) < 1e-5
    assert len(one.logged) == 3 * updates and furthest(whole, weights(load(str(tiny_dir)))) > 1e-4


def test_questions_that_stand_in_several_micro_batches_weigh_as_one_each(tiny_dir, asked, tmp_path):
    whole, *_ = trained(tiny_dir, asked[:2], tmp_path / "whole")
    several, *_ = trained(tiny_dir, asked[:2], tmp_path / "several", micro=1, accumulate=4)
    assert furthest(whole, several) < 1e-5


def test_the_tokens_that_are_trained_on_are_those_that_were_sampled(tiny, asked, tmp_path, monkeypatch):
    drawn, labels, decode, batch_of = [], [], generating.decode, Encoder.batch

    def decoding(*given):
        drawn.append(decode(*given))
        return drawn[-1]

    def batching(encoder, examples):
        labels.append(batch_of(encoder, examples).labels)
        return batch_of(encoder, examples)

    monkeypatch.setattr(generating, "decode", decoding)
    monkeypatch.setattr(Encoder, "batch", batching)
    monkeypatch.setattr(Group, "kind", "used")
    module, data = online(tiny, asked, epochs=1)
    fit(module, data, tmp_path)
    sampled, trained_on = ([[i for i in row if i >= 0] for row in rows[0].tolist()] for rows in (drawn, labels))
    image = tiny.processor.image_token_id
    assert sum(image in row for row in sampled) < 4 and len(sampled) == 16
    assert [row for row in trained_on if image not in row] == [row for row in sampled if image not in row]


def test_a_group_whose_rewards_are_all_the_same_is_counted_and_left_out(tiny_dir, asked, tmp_path, monkeypatch):
    right = {asked[0][0].question_id: 1.0, asked[1][0].question_id: 0.0}

    def judged(question, text, style):
        return Verdict(text, right.get(question.question_id, float(len(text) % 2)))

    monkeypatch.setattr(grpo_module, "judge", judged)
    _, seen, module = trained(tiny_dir, asked, tmp_path / "all", epochs=1)
    groups = module.groups
    assert [groups[i].kind for i in range(4)] == ["all_right", "all_wrong", "used", "used"]
    assert module.counts == {"all_right": 1, "all_wrong": 1, "used": 2}
    first = seen.logged[0]
    assert (first["groups/used"], first["groups/all_right"], first["groups/all_wrong"]) == (0.5, 0.25, 0.25)
    assert first["train/tokens"] == sum(groups[2].lengths) + sum(groups[3].lengths)
    alone, *_ = trained(tiny_dir, asked[2:], tmp_path / "two", epochs=1)
    assert furthest(alone, weights(module.vlm)) < 1e-5


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_where_no_group_has_an_advantage_nothing_moves(score, tiny_dir, asked, tmp_path, monkeypatch):
    monkeypatch.setattr(grpo_module, "judge", lambda question, text, style: Verdict(text, score))
    found, *_ = trained(tiny_dir, asked, tmp_path, epochs=2)
    assert furthest(found, weights(load(str(tiny_dir)))) == 0


def test_right_responses_become_likelier_and_wrong_ones_less_likely(tiny_dir, asked, tmp_path):
    vlm = load(str(tiny_dir))
    module, data = online(vlm, asked, epochs=1, optim={"lr": 1e-3})
    fit(module, data, tmp_path)
    examples, advantages, _ = module._responses(range(4))
    batch, advantages = Encoder(vlm.processor).batch(examples), torch.tensor(advantages)
    with torch.no_grad():
        then, now = (response_logps(model.model.eval(), batch).sum(1) for model in (load(str(tiny_dir)), vlm))
    assert ((now - then) * advantages).sum() > 0


def test_the_format_term_rewards_what_ended_with_an_answer(tiny, asked, tmp_path, monkeypatch):
    monkeypatch.setattr(grpo_module, "judge", lambda question, text, style: Verdict(None, 0.0))
    rollout = SETTINGS["rollout"] | {"format_weight": 0.5}
    module, data = online(tiny, asked, epochs=1, rollout=rollout)
    fit(module, data, tmp_path / "unread")
    assert {r for g in module.groups.values() for r in g.rewards} == {0.0}
    monkeypatch.setattr(grpo_module, "judge", lambda question, text, style: Verdict(text, 1.0))
    tiny.model.generation_config.eos_token_id = list(range(0, 4000, 2))  # about half of all tokens end a response
    module, data = online(tiny, asked, epochs=1, rollout=rollout | {"max_new_tokens": 1})
    fit(module, data, tmp_path / "read")
    for group in module.groups.values():
        assert group.rewards == [1.5 if ended else 1.0 for ended in group.finished]


@pytest.mark.parametrize(("updates", "cut"), [(1, 2), (2, 3), (3, 2)])
def test_a_cut_run_ends_bit_for_bit_as_an_uncut_one(updates, cut, tiny_dir, asked, tmp_path):
    """Also between two updates with the same samples."""
    uncut, one, module = trained(tiny_dir, asked, tmp_path / "uncut", updates=updates)
    vlm = load(str(tiny_dir))
    stopped, data = online(vlm, asked, updates=updates)
    collate, calls = data.collate, iter(range(100))

    def until(*given):
        if next(calls) == cut:
            raise OSError("the power went")
        return collate(*given)

    data.collate = until
    with pytest.raises(OSError, match="the power went"):
        fit(stopped, data, tmp_path / "cut")
    found, rest, again = trained(tiny_dir, asked, tmp_path / "cut", updates=updates)
    assert furthest(uncut, found) == 0
    assert rest.texts == one.texts[-len(rest.texts) :] and len(rest.texts) < len(one.texts)
    assert again.counts == module.counts


def test_several_updates_go_away_from_the_weights_that_sampled(tiny_dir, asked, tmp_path):
    _, seen, _ = trained(tiny_dir, asked, tmp_path, updates=3, epochs=2, optim={"lr": 3e-2, "warmup_ratio": 0.0})
    assert seen.texts[0] == seen.texts[1] == seen.texts[2] != seen.texts[3]
    clipped = [step["policy/clipped"] for step in seen.logged]
    assert clipped[0] == clipped[3] == 0 and clipped[1] > 0 and clipped[4] > 0


def test_a_reference_is_held_only_for_a_kl(tiny_dir, asked, tmp_path):
    _, without, module = trained(tiny_dir, asked, tmp_path / "without")
    assert module.frozen is None and "policy/kl" not in without.logged[0]
    for reference, lora in (("frozen", None), ("adapter_off", LORA)):
        vlm, seen = load(str(tiny_dir), lora=lora), Seen()
        given = {"objective": OBJECTIVE | {"kl": 0.1}, "reference": reference, "optim": {"lr": 1e-2}}
        module, data = online(vlm, asked, **given)
        fit(module, data, tmp_path / reference, beside(seen))
        assert (module.frozen is None) == (reference == "adapter_off")
        kls = [step["policy/kl"] for step in seen.logged]
        assert kls[0] == pytest.approx(0, abs=1e-6) and kls[-1] > 1e-5


def test_it_trains_under_autocast_in_which_it_has_sampled(tiny_dir, asked, tmp_path):
    vlm, start = load(str(tiny_dir)), weights(load(str(tiny_dir)))
    module, data = online(vlm, asked)
    fit(module, data, tmp_path, partial(pl.Trainer, **QUIET.keywords, precision="bf16-mixed"))
    assert furthest(start, weights(vlm)) > 1e-4


def test_held_out_questions_are_measured_by_their_rewards(tiny_dir, asked, tmp_path):
    vlm = load(str(tiny_dir))
    module, data = online(vlm, asked, micro=2, held=2)
    counts = fit(module, data, tmp_path, validation={"fraction": 0.5, "every": 0.5})
    assert -1 <= counts["best_loss"] < 0 and (tmp_path / "best/model").is_dir()


def test_a_loss_that_is_no_number_is_kept_and_replayed_with_its_advantages(tiny, asked, tmp_path, monkeypatch):
    real = grpo_module.response_logps
    monkeypatch.setattr(grpo_module, "response_logps", lambda *given: real(*given) * float("nan"))
    module, data = online(tiny, asked, epochs=1)
    with pytest.raises(FloatingPointError, match="loss is nan at step 1"):
        fit(module, data, tmp_path)
    kept = json.loads((tmp_path / "nonfinite/batch.json").read_text(encoding="utf-8"))
    recipe = Recipe.from_json(kept["micro_batches"][0]["recipe"])
    assert len(recipe.examples) == len(recipe.advantages) and any(recipe.advantages)
    found = replayed(tiny, None, recipe, kept["objective"], None)
    assert [row["loss"] for row in found.rows] == pytest.approx([-a for a in recipe.advantages], abs=1e-5)


def run(questions_dir, tiny_dir, out, **changed):
    out.mkdir()
    given = SETTINGS | {"limit": 4, "batch": {"micro_batch_size": 2}} | changed
    return grpo.run(str(questions_dir), partial(load, str(tiny_dir)), GRPOSettings(**given), csv, seed=0, out=out)


def test_the_stage_trains_what_is_not_frozen_and_saves_a_model(questions_dir, tiny_dir, tmp_path):
    counts = run(questions_dir, tiny_dir, tmp_path / "out", frozen_parts=["vision_tower"])
    assert (counts["questions"], counts["steps"], sum(counts["groups"].values())) == (4, 2, 4)
    before, after = weights(load(str(tiny_dir))), weights(load(str(tmp_path / "out/model")))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and not any("vision_tower" in name for name in moved)


def test_no_question_of_the_named_data_sets_is_refused(questions_dir, tiny_dir, tmp_path):
    with pytest.raises(UserError, match=r"none of 24 training questions is of grpo.datasets=\['chartqa'\]"):
        run(questions_dir, tiny_dir, tmp_path / "out", datasets=["chartqa"])
