"""A loss or a gradient that is not finite: the run stops before its step, and stage replay finds where it came from."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from commands import in_processes
from fitting import beside, fit, furthest, preference, weights
from safetensors.torch import load_file

from rationale.artifacts import UserError
from rationale.models.encode import Encoder
from rationale.models.vlm import load
from rationale.objectives.dpo import Objective
from rationale.settings import settings
from rationale.tools import replay
from rationale.tools.replay import replayed
from rationale.training import sft as sft_module
from rationale.training.nonfinite import Recipe
from rationale.training.optim import Optim
from rationale.training.plan import plan
from rationale.training.sft import SFTModule, sft_data


class Before(pl.Callback):
    """The weights before each micro-batch."""

    def __init__(self):
        self.weights = []

    def on_train_batch_start(self, trainer, module, *_):
        self.weights.append(weights(module.vlm))


def tuned(vlm, examples, held_out=()):
    """Two steps of two micro-batches of two examples, twice."""
    order = partial(plan, micro_batch=2, accumulate=2, epochs=2, seed=0)
    data = sft_data(Encoder(vlm.processor), examples, order, held_out=held_out)
    return SFTModule(vlm, Optim(lr=1e-2), data.plan.num_steps), data


def compared(vlm, examples):
    """Three steps of two micro-batches of two pairs."""
    return preference(vlm, examples, "frozen", micro=2)


def spoiled(data, indices):
    """The batch of these indices holds an infinite pixel in its first row."""
    collate = data.collate

    def spoiling(asked, step):
        batch = collate(asked, step)
        if asked is indices:
            batch.rows.inputs["pixel_values"][0, 0, 3, 3] = float("inf")
        return batch

    data.collate = spoiling


def stopped(module, data, out, match):
    """What a run kept that had to stop, and the weights before each of its micro-batches."""
    before = Before()
    with pytest.raises(FloatingPointError, match=match) as error:
        fit(module, data, out, beside(before), save_every=1)
    folder = out / "nonfinite"
    assert f"rationale stage=replay replay.batch={folder}" in str(error.value)
    told = json.loads((folder / "batch.json").read_text(encoding="utf-8"))
    asked = [[e["question_id"] for e in micro["recipe"]["examples"]] for micro in told["micro_batches"]]
    return SimpleNamespace(folder=folder, told=told, asked=asked, before=before.weights, said=str(error.value))


@pytest.mark.parametrize(("prepared", "micro", "step"), [(tuned, 5, 3), (compared, 3, 2)])
def test_a_loss_that_is_no_number_stops_before_its_step_with_its_batch(prepared, micro, step, tiny, examples, tmp_path):
    module, data = prepared(tiny, examples)
    indices = data.plan.micro_batches[micro]
    spoiled(data, indices)
    found = stopped(module, data, tmp_path, f"loss is nan at step {step} ")
    assert found.asked == [[e.question_id for e in data.recipe(indices).examples]]
    assert found.told["micro_batches"][0]["number"] == 2
    assert all(i in found.said for i in found.asked[0][:2])
    first = found.before[2 * (step - 1)]
    assert furthest(first, found.before[0]) > 0
    vlm = load(str(found.folder / "model"))
    assert furthest(first, weights(vlm)) == 0


def test_an_infinite_loss_stops_too(tiny, examples, tmp_path, monkeypatch):
    module, data = tuned(tiny, examples)
    logps = sft_module.response_logps
    monkeypatch.setattr(sft_module, "response_logps", lambda *asked: logps(*asked) - float("inf"))
    found = stopped(module, data, tmp_path, "loss is inf at step 1 ")
    assert found.asked == [[examples[i].question_id for i in b] for b in data.plan.micro_batches[:2]]


def test_a_gradient_that_is_not_finite_stops_before_its_step_with_all_its_micro_batches(tiny, examples, tmp_path):
    module, data = tuned(tiny, examples)

    def overflow(gradient):
        return gradient * (float("inf") if module.global_step == 1 else 1)

    tiny.model.model.language_model.norm.weight.register_hook(overflow)
    found = stopped(module, data, tmp_path, "gradient is not finite at step 2 ")
    assert found.asked == [[examples[i].question_id for i in b] for b in data.plan.micro_batches[2:4]]
    assert furthest(found.before[2], weights(load(str(found.folder / "model")))) == 0


def test_a_held_out_loss_that_is_no_number_is_not_the_best(tiny, examples, tmp_path):
    module, data = tuned(tiny, examples[:6], examples[6:])
    spoiled(data, data.held_out[0])
    found = stopped(module, data, tmp_path, "held-out loss is not finite at step 1 ")
    assert found.asked == [[e.question_id for e in examples[6:]]]
    assert not (tmp_path / "best").exists()


def test_a_run_that_goes_on_after_a_repair_keeps_nothing_of_the_stop(tiny_dir, examples, tmp_path):
    module, data = tuned(load(str(tiny_dir)), examples)
    spoiled(data, data.plan.micro_batches[5])
    stopped(module, data, tmp_path, "loss is nan")
    (tmp_path / "nonfinite.partial").mkdir()  # of a second stop, cut off
    for out in (tmp_path, tmp_path / "uncut"):
        module, data = tuned(load(str(tiny_dir)), examples)
        fit(module, data, out, save_every=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["uncut", *(p.name for p in out.iterdir())])
    whole, found = (load_file(folder / "model" / "model.safetensors") for folder in (out, tmp_path))
    assert furthest(whole, found) == 0


def with_a_word(examples, tokenizer):
    """The examples, one of which alone ends in a token of its own, and that token."""
    used = {i for e in examples for text in (e.prompt, e.response) for i in tokenizer(text)["input_ids"]}
    word = next(i for w, i in sorted(tokenizer.get_vocab().items()) if w.isascii() and w.isalpha() and i not in used)
    changed = [*examples]
    changed[2] = replace(examples[2], response=examples[2].response + tokenizer.decode([word]))
    assert word in tokenizer(changed[2].response)["input_ids"]
    return changed, word


def untie(model):
    """A head of its own, so that what is wrong with the embedding of a token stays with the rows that hold it."""
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    for config in (model.config, model.config.text_config):
        config.tie_word_embeddings = False


@pytest.mark.parametrize("prepared", [tuned, compared])
def test_replay_names_the_row_the_module_and_the_weight(prepared, tiny, examples, tmp_path, capsys):
    examples, word = with_a_word(examples, tiny.tokenizer)
    untie(tiny.model)
    module, data = prepared(tiny, examples)
    with torch.no_grad():
        tiny.model.model.language_model.embed_tokens.weight[word, 0] = float("nan")
    found = stopped(module, data, tmp_path, f"loss is nan at step [12] .*{examples[2].question_id}")
    (out := tmp_path / "out").mkdir()
    counts = replay.run(str(found.folder), out)
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [row for row in rows if not row["finite"]]
    assert [(row["question_id"], row["loss"]) for row in lines] == [(examples[2].question_id, "nan")]
    assert len(rows) == counts["responses"] == len(found.asked[0])
    assert lines[0]["tokens"] == len(tiny.tokenizer(examples[2].response)["input_ids"]) + 1
    text = (out / "replay.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert "first not finite `model.language_model.embed_tokens`" in text
    assert "1 weights were not finite already, first `model.language_model.embed_tokens.weight`" in text
    assert "gradients not finite, first `" in text


@pytest.mark.slow
def test_of_two_processes_both_stop_and_the_one_that_saw_it_is_named(tiny, examples, questions_dir, tmp_path):
    """Under ZeRO-3, where saving the weights takes both; tests/sharded.py trains on these examples in this order."""
    longer = [replace(e, response="so it is " * 8 * i + e.response) for i, e in enumerate(examples)]
    data = sft_data(Encoder(tiny.processor), longer, partial(plan, micro_batch=2, accumulate=2, epochs=3, seed=0))
    seen = [set(tiny.tokenizer(e.prompt + e.response)["input_ids"]) for e in examples]
    index = data.plan.micro_batches[1][0]  # of process 1
    others = set().union(*(tokens for i, tokens in enumerate(seen) if i not in data.plan.micro_batches[1]))
    untie(tiny.model)
    tiny.model.model.language_model.embed_tokens.weight.data[min(seen[index] - others), 0] = float("nan")
    tiny.save(tmp_path / "start")
    where = {"model": str(tmp_path / "start"), "questions": str(questions_dir), "layout": "tree"}
    done = in_processes(tmp_path, 2, objective="sft", strategy="zero3", **where)
    assert "FloatingPointError: loss is nan at step 1 (micro-batch 2 of process 1; 2 questions: " in done.stderr
    told = json.loads((tmp_path / "nonfinite" / "batch.json").read_text(encoding="utf-8"))
    asked = [e["question_id"] for micro in told["micro_batches"] for e in micro["recipe"]["examples"]]
    assert asked == [examples[i].question_id for i in data.plan.micro_batches[1]]
    started, kept = (weights(load(str(tmp_path / name))) for name in ("start", "nonfinite/model"))
    assert all(torch.equal(kept[name].nan_to_num(9), value.nan_to_num(9)) for name, value in started.items())


def test_replay_of_finite_weights_gives_the_log_probs_and_finds_nothing(tiny, examples, tmp_path):
    """The image was at fault, and is repaired."""
    module, data = compared(tiny, examples)
    spoiled(data, data.plan.micro_batches[1])
    found = stopped(module, data, tmp_path, "loss is nan at step 1 ")
    (out := tmp_path / "out").mkdir()
    assert replay.run(str(found.folder), out) == {"responses": 4, "not_finite/32-true": 0}
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["loss"] for row in rows] == pytest.approx([0.693147] * 4, abs=1e-5)  # the first loss is log 2
    assert "all finite, outputs and gradients" in (out / "replay.md").read_text(encoding="utf-8")


@settings
class Shifted(Objective):
    """A loss that a field of its own moves."""

    shift: float = 0.0

    def __call__(self, policy, reference):
        terms = Objective.__call__(self, policy, reference)
        return terms._replace(loss=terms.loss + self.shift)


def test_replay_runs_the_loss_that_was_trained_with_the_fields_of_its_own(tiny, examples):
    module, data = preference(tiny, examples, "frozen", objective=Shifted(shift=2.0))
    config = json.loads(json.dumps(module.objective_config()))  # as it is kept
    found = replayed(tiny, tiny, data.recipe([0, 1]), config, None)
    assert [row["loss"] for row in found.rows] == pytest.approx([2.693147] * 4, abs=1e-5)


def test_what_16_bits_cannot_hold_is_finite_in_float32(tiny, examples):
    recipe, sft = Recipe(examples[:2], "rows", None), {"stage": "sft", "reduction": "token"}
    with torch.no_grad():
        tiny.model.model.multi_modal_projector.linear_1.weight.mul_(1e7)
    half, full = (replayed(tiny, None, recipe, sft, dtype) for dtype in (torch.float16, None))
    assert half.first == "model.multi_modal_projector.linear_1"
    assert full.first is None
    assert all(row["finite"] for row in full.rows)


def test_an_adapter_that_holds_a_nan_is_named_and_cannot_be_replayed(tiny_dir, examples, tmp_path):
    vlm = load(str(tiny_dir), lora={"r": 2, "target_modules": ["q_proj"]})
    module, data = tuned(vlm, examples)
    name, adapter = next((n, p) for n, p in vlm.model.named_parameters() if "lora_B" in n)
    adapter.data[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="loss is nan at step 1 "):
        fit(module, data, tmp_path, save_every=1)
    with pytest.raises(UserError, match=f"no weights there: 1 of the adapter's were not finite already, first {name}"):
        replay.run(str(tmp_path / "nonfinite"), tmp_path)


def test_replay_asks_for_a_folder(tmp_path):
    with pytest.raises(UserError, match=r"replay\.batch: give the folder"):
        replay.run(None, tmp_path)


@pytest.mark.parametrize("name", ["subprocess.Popen", "rationale.objectives.dpo.dpo_loss"])
def test_a_batch_that_names_something_else_for_its_objective_is_refused(name):
    with pytest.raises(UserError, match=f"class={name} is no Objective"):
        replay.objective_of({"class": name, "args": "true"})
