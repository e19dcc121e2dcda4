"""experiments/one_file.py: its losses are those of the stages on the same rows."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from rationale.models.batch import Example
from rationale.models.encode import Encoder
from rationale.objectives.dpo import Objective
from rationale.training.dpo import DPOModule, dpo_data
from rationale.training.optim import Optim
from rationale.training.plan import plan
from rationale.training.sft import SFTModule, sft_data

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments"))

import one_file

ONE_STEP = partial(plan, accumulate=1, epochs=1, seed=0, shuffle=False)


def row(example: Example) -> one_file.Row:
    return Image.open(example.images[0]).convert("RGB"), example.prompt, example.response


def first_loss(module, data):
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return trainer.callback_metrics["train/loss"].item()


def test_the_sft_loss_is_that_of_the_stage(tiny, examples):
    with torch.no_grad():
        ours = one_file.sft_loss(tiny.model, tiny.processor, [row(e) for e in examples[:4]]).item()
    data = sft_data(Encoder(tiny.processor), examples[:4], partial(ONE_STEP, micro_batch=4))
    assert first_loss(SFTModule(tiny, Optim(1e-9), 1, "token"), data) == pytest.approx(ours, abs=1e-5)


def test_the_dpo_loss_is_that_of_the_stage(tiny, examples):
    pairs = [(examples[0], examples[1]), (examples[2], examples[3])]
    pairs = [(a, Example(a.question_id, a.images, a.prompt, b.response)) for a, b in pairs]
    module = DPOModule(tiny, Objective(beta=0.1), "frozen", Optim(1e-9), 1)
    data = dpo_data(Encoder(tiny.processor), pairs, partial(ONE_STEP, micro_batch=2))
    assert first_loss(module, data) == pytest.approx(0.693147, abs=1e-5)
    with torch.no_grad():  # a reference that is another model
        for parameter in module.frozen.parameters():
            parameter.mul_(1.05)
        ours = one_file.dpo_loss(tiny.model, module.frozen, tiny.processor, [tuple(map(row, p)) for p in pairs], 0.1)
        data.setup("fit")
        batch = data.collate([0, 1], [0, 1])
        stage = module.measure(batch)[1]["loss"]
    assert abs(ours.item() - 0.693147) > 1e-3
    torch.testing.assert_close(stage, ours, atol=1e-5, rtol=0)
