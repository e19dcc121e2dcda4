"""Stage check: one page about a checkpoint on this machine; the first thing that is wrong ends it. Stage predict."""

from __future__ import annotations

import re
from functools import partial

import pytest
import pytorch_lightning as pl

from rationale.artifacts import UserError
from rationale.data.response import Truncation
from rationale.models import prefix
from rationale.models.generator import Local
from rationale.models.vlm import load
from rationale.planning.table import Hardware
from rationale.stages import check, predict
from rationale.training.dpo_module import Objective
from rationale.training.optim import Optim

HARDWARE = Hardware("test", 1, 16e9, 2e9, 1e11, 0.3)


def page(capsys, model, questions=None):
    trainer = partial(pl.Trainer, accelerator="cpu", devices=1, precision="32-true")
    check.run(
        model=model, questions=questions, trainer=trainer, precision="32-true", objective=Objective(),
        optim=Optim(1e-4), frozen_parts=["vision_tower"], truncate=Truncation(words=90, tokens=None, eos="uncut"),
        max_new_tokens=4, hardware=HARDWARE,
    )  # fmt: skip
    return capsys.readouterr().out


def test_the_page_shows_prompt_image_tokens_layouts_and_steps(tiny_dir, questions_dir, capsys):
    out = page(capsys, partial(load, str(tiny_dir)), str(questions_dir))
    assert "llava with llama" in out and "layout: tree" in out
    assert "last: " in out and "'<|assistant|>'" in out and "'</s>'" in out
    assert "64x64: 16, 336x336: 16, 1344x336: 16, 2000x100: 16" in out
    gaps = re.findall(r"(rows|tree) against transformers: log p of a token within (\S+), gradients within (\S+)\n", out)
    assert [layout for layout, *_ in gaps] == ["rows", "tree"]
    assert all(float(value) < 1e-3 for _, *values in gaps for value in values)
    assert re.findall(r"reference (\w+): first loss 0\.693\d", out) == ["frozen", "scored"]
    assert out.endswith("All of it is as it should be.\n")


def test_adapters_off_are_a_third_reference(tiny_dir, capsys):
    lora = {"r": 2, "target_modules": ["q_proj"]}
    out = page(capsys, partial(load, str(tiny_dir), lora=lora))
    assert re.findall(r"reference (\w+): first loss 0\.693\d", out) == ["frozen", "scored", "adapter_off"]


def test_a_layout_with_other_values_ends_the_page_with_what_to_do(tiny_dir, capsys, monkeypatch):
    monkeypatch.setattr(prefix, "after", lambda positions: positions.amax(-1, keepdim=True) + 9)
    with pytest.raises(UserError, match=r"layout tree gives other values than transformers .* set layout=rows"):
        page(capsys, partial(load, str(tiny_dir)))


def test_a_response_that_ends_where_generation_goes_on_ends_the_page(tiny_dir, capsys):
    def read():
        vlm = load(str(tiny_dir))
        vlm.model.generation_config.eos_token_id = 5
        return vlm

    with pytest.raises(UserError, match=r"trained to end with '</s>' .*, and generation ends with"):
        page(capsys, read)


def test_a_prompt_with_fewer_image_tokens_than_features_ends_the_page(tiny_dir, capsys):
    def read():
        vlm = load(str(tiny_dir))
        vlm.processor.num_additional_image_tokens = 0
        return vlm

    with pytest.raises(UserError, match=r"15 image tokens for .*64x64.png, of which the model makes 16 features"):
        page(capsys, read)


def test_predict_prints_one_answer_in_each_style(tiny_dir, questions_dir, questions, capsys):
    predict.run(
        model=partial(load, str(tiny_dir)), generator=Local, image=str(questions_dir / questions[0].image),
        question="How many?", choices=[], styles=["direct", "cot"], max_new_tokens={"direct": 2, "cot": 3},
    )  # fmt: skip
    direct, cot = capsys.readouterr().out.splitlines()
    assert direct.startswith("direct: ") and cot.startswith("cot: ") and cot.endswith("[cut at 3 tokens]")


def test_predict_names_what_is_missing():
    with pytest.raises(UserError, match=r"needs image=<file> and question="):
        predict.run(load, Local, None, "How many?", [], ["direct"], {"direct": 1})
    with pytest.raises(UserError, match=r"image=nowhere.png: no such file"):
        predict.run(load, Local, "nowhere.png", "How many?", [], ["direct"], {"direct": 1})
