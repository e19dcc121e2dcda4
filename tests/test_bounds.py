"""What may change a result, and by how much at most; measured on a tiny model whose log-probs lie between -26 and 0.

    what differs                          what is compared                        at most
    batch size 1, 3, 8; layout            log p of a token, stage score           2e-5 nats
    padding on either side                log p of a token                        1e-5 nats
    bf16 weights or autocast              log p of a token; its mean              0.25 nats; 0.05 nats
    how a step is cut into micro-batches  gradient of the step, to its largest    1e-5
    batch size 1, 3, 8                    greedy texts in float32                 none
    another process, same seed            rows; weights                           none

The last bit of a float32 sum depends on the shapes that are summed, so texts are the same only where no two tokens are
as likely as each other to about 1e-5.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from fitting import QUIET, WHOLE, preference, sft, train_dpo

from rationale.models.batch import PER_TOKEN, Batch, Example
from rationale.models.encode import Encoder
from rationale.models.local import Local
from rationale.models.logps import response_logps
from rationale.models.prefill import candidate_logps
from rationale.models.vlm import VLM, load
from rationale.objectives.dpo import Objective
from rationale.pairing import PairingRule
from rationale.prompts import prompt_text
from rationale.schema import Pair, Question, Response, ResponseLogps, read_jsonl, write_jsonl
from rationale.stages import evaluate, pair, sample, score
from rationale.training.dpo import DPOModule, dpo_data
from rationale.training.optim import Optim
from rationale.training.plan import plan
from rationale.training.sft import SFTModule, sft_data

SIZES = (1, 3, 8)


def sharp(folder: str, **settings: object) -> VLM:
    """The tiny model with logits as far apart as a trained model's."""
    vlm = load(folder, **settings)
    with torch.no_grad():
        vlm.model.get_output_embeddings().weight *= 30
    vlm.model.eval()
    return vlm


@pytest.fixture
def model(tiny_dir):
    return partial(sharp, str(tiny_dir))


def test_stored_log_probs_do_not_depend_on_batch_size_and_layout(questions, questions_dir, model, tmp_path):
    asked = [q for q in questions if q.split == "train"][:6]
    pairs = [
        Pair(q.question_id, n, "cot", "so it is " * (i + n + 1), f"it is not {i + n} at all", 0, 1, "1", "2")
        for i, q in enumerate(asked)
        for n in range(2)
    ]
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    found = []
    for layout in ("rows", "tree"):
        for size in SIZES:
            out = tmp_path / f"{layout}{size}"
            out.mkdir()
            score.run(str(questions_dir), str(tmp_path), model, WHOLE, size, layout, out)
            rows = read_jsonl(out / "rows.jsonl", ResponseLogps)
            found.append({r.key: torch.tensor(r.logps) for r in rows})
    assert min(logps.min() for logps in found[0].values()) < -5
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=2e-5, rtol=0)


def with_padding(batch: Batch, left: int, right: int, pad: int) -> Batch:
    """A batch of plain rows with more columns of padding on either side."""
    inputs = dict(batch.inputs)
    length = inputs["input_ids"].shape[1]
    for name in set(inputs) & set(PER_TOKEN):
        fill = pad if name == "input_ids" else 0
        inputs[name] = torch.nn.functional.pad(inputs[name], (left, right), value=fill)
    rows = batch.sources // length
    return replace(batch, inputs=inputs, sources=batch.sources + left + rows * (left + right))


@torch.no_grad()
def test_log_probs_do_not_depend_on_padding_on_either_side(model, examples):
    vlm = model()
    batch = Encoder(vlm.processor).batch(examples)
    expected = response_logps(vlm.model, batch)
    for left, right in ((7, 0), (0, 7), (3, 5)):
        padded = with_padding(batch, left, right, vlm.tokenizer.pad_token_id)
        torch.testing.assert_close(response_logps(vlm.model, padded), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", ["rows", "tree"])
@pytest.mark.parametrize("way", ["weights", "autocast"])
@torch.no_grad()
def test_log_probs_in_bf16_are_float32_and_near_those_in_float32(way, layout, model, examples):
    """Those of training, and those that stage score stores: in the layout tree, through a cache of prompts."""
    vlm = model()
    encoder = Encoder(vlm.processor, layout=layout)
    about_one = [replace(examples[0], response=e.response) for e in examples]
    batch = encoder.batch(about_one)
    expected = response_logps(vlm.model, batch)[batch.mask]
    assert expected.min() < -5
    if way == "weights":
        vlm.model.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        found = response_logps(vlm.model, batch)
        stored = candidate_logps(vlm.model, encoder, about_one)
    assert found.dtype == torch.float32
    for logps in (found[batch.mask], torch.tensor([value for row in stored for value in row])):
        off = logps - expected
        assert off.abs().max() < 0.25  # of values down to -26, where numbers in bf16 are 0.125 apart; 0.08 was seen
        assert off.mean().abs() < 0.05


def test_greedy_texts_do_not_depend_on_the_batch_size(questions_dir, model, tmp_path):
    found = []
    for size in SIZES:
        out = tmp_path / str(size)
        out.mkdir()
        limits = {"direct": 3, "cot": 6}
        asked = evaluate.Evaluation("m", "test", ["direct", "cot"], limits, size)
        evaluate.run(str(questions_dir), model, Local, asked, 1, out)
        found.append((out / "rows.jsonl").read_bytes())
    assert found[0].count(b"\n") > 8
    assert found[1:] == found[:1] * 2


class FirstGradient(pl.Callback):
    """Of the first optimizer step, by parameter; before it is clipped."""

    def on_before_optimizer_step(self, trainer, module, optimizer):
        if trainer.global_step == 0:
            self.found = {n: p.grad.clone() for n, p in module.policy.named_parameters() if p.grad is not None}


def first_gradient(module, data):
    seen = FirstGradient()
    QUIET(
        max_steps=1, accumulate_grad_batches=data.plan.accumulate, callbacks=[seen], logger=False,
        enable_checkpointing=False, enable_model_summary=False,
    ).fit(module, data)  # fmt: skip
    return seen.found


def cut_sft(vlm, examples, order, reduction):
    """Four examples in one step."""
    data = sft_data(Encoder(vlm.processor), examples[:4], order, reduction)
    return SFTModule(vlm, Optim(lr=1e-3), data.plan.num_steps, reduction), data


def cut_dpo(vlm, examples, order, objective):
    """Four pairs in one step."""
    pairs = [(a, replace(a, response=b.response)) for a, b in zip(examples[:4], examples[4:], strict=True)]
    data = dpo_data(Encoder(vlm.processor), pairs, order)
    return DPOModule(vlm, objective, "frozen", Optim(lr=1e-3), data.plan.num_steps), data


OBJECTIVES = {
    "sft by token": partial(cut_sft, reduction="token"),
    "sft by sequence": partial(cut_sft, reduction="sequence"),
    "dpo": partial(cut_dpo, objective=Objective()),
    "dpo and sft": partial(cut_dpo, objective=Objective(sft_weight=0.5)),
}
# Four rows in micro-batches of 4; 1, 1 and 2; 1, 1, 1 and 1; and in six, two rows in two of them each.
CUTS = [(4, 1), (2, 3), (1, 4), (1, 6)]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_gradient_of_a_step_does_not_depend_on_how_it_is_cut(objective, tiny_dir, examples):
    orders = [partial(plan, micro_batch=micro, accumulate=number, epochs=1, seed=0) for micro, number in CUTS]
    whole, *cuts = (first_gradient(*OBJECTIVES[objective](load(str(tiny_dir)), examples, order)) for order in orders)
    largest = max(g.abs().max().item() for g in whole.values())
    for cut in cuts:
        assert cut.keys() == whole.keys()
        assert max((cut[name] - whole[name]).abs().max().item() for name in whole) < 1e-5 * largest


@torch.no_grad()
def likelihood(model, encoder: Encoder, examples: list[Example]) -> float:
    return response_logps(model, encoder.batch(examples)).sum().item()


def test_training_on_pairs_moves_likelihood_from_rejected_to_chosen(tiny, examples):
    module, data = preference(tiny, examples, "frozen")
    QUIET(max_epochs=1, logger=False, enable_checkpointing=False, enable_model_summary=False).fit(module, data)
    encoder, chosen = Encoder(tiny.processor), examples[:4]
    rejected = [replace(a, response=b.response) for a, b in zip(chosen, examples[4:], strict=True)]
    gains = [
        likelihood(module.policy, encoder, side) - likelihood(module.frozen, encoder, side)
        for side in (chosen, rejected)
    ]
    assert gains[0] > gains[1] + 1


def made(folder: str, questions: str, out: Path) -> None:
    """Responses, pairs, predictions, and the weights of both trainings: all that is drawn or trained with a seed."""
    out.mkdir(parents=True)
    folders = {name: out / name for name in ("sampled", "judged", "paired", "evaluated", "sft")}
    for each in folders.values():
        each.mkdir()
    model = partial(load, folder)
    sampling = sample.Sampling(
        "train", 8, [], "cot", num_samples=4, temperature={"short": 1.0, "choice": 1.2}, top_p=0.9, max_new_tokens=5,
        batch_size=3,
    )  # fmt: skip
    sample.run(questions, model, Local, sampling, 1, folders["sampled"])
    rows = read_jsonl(folders["sampled"] / "rows.jsonl", Response)
    write_jsonl(
        folders["judged"] / "rows.jsonl",
        [replace(r, predicted=str(r.sample_id), score=float(r.sample_id < 2)) for r in rows],
    )
    pair.run(questions, str(folders["judged"]), PairingRule(), 1, folders["paired"])
    evaluation = evaluate.Evaluation("m", "test", ["direct", "cot"], {"direct": 2, "cot": 4}, 5)
    evaluate.run(questions, model, Local, evaluation, 1, folders["evaluated"])
    asked = [q for q in read_jsonl(Path(questions) / "questions.jsonl", Question) if q.split == "train"][:8]
    examples = [Example(q.question_id, q.files(Path(questions)), prompt_text(q, "cot"), q.answers[0]) for q in asked]
    pl.seed_everything(3, verbose=False)
    torch.save(sft(load(folder, lora=None), examples, folders["sft"], micro=2, accumulate=2, epochs=2), out / "sft.pt")
    weights, _ = train_dpo(Path(questions), folders["paired"], model, out / "dpo", "frozen")
    torch.save(weights, out / "dpo.pt")


@pytest.mark.slow
def test_another_process_with_the_same_seed_makes_the_same_rows_and_weights(tiny_dir, questions_dir, tmp_path):
    """Under another order of sets, which Python draws anew for each process."""
    here, there = tmp_path / "here", tmp_path / "there"
    told = "import sys, rationale, pathlib, test_bounds as t; t.made(*sys.argv[1:3], pathlib.Path(sys.argv[3]))"
    done = subprocess.run(
        [sys.executable, "-c", told, str(tiny_dir), str(questions_dir), str(there)], cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONHASHSEED": "7"}, capture_output=True, encoding="utf-8", timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    made(str(tiny_dir), str(questions_dir), here)
    for name in ("sampled/rows.jsonl", "paired/pairs.jsonl", "evaluated/rows.jsonl"):
        assert (here / name).read_bytes() == (there / name).read_bytes(), name
        assert (here / name).stat().st_size
    for name in ("sft.pt", "dpo.pt"):
        a, b = (torch.load(side / name, weights_only=True) for side in (here, there))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name
