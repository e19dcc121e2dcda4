"""Trainings as tests make them: on the CPU, quiet, with a CSV alone, and settings that a test need not name."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from rationale.models.encode import Encoder
from rationale.models.response import Truncation
from rationale.models.vlm import VLM, load
from rationale.objectives.dpo import Objective
from rationale.stages import dpo
from rationale.training import fit as fitting
from rationale.training.dpo import DPOModule, dpo_data
from rationale.training.loggers import loggers
from rationale.training.optim import Optim
from rationale.training.plan import PlannedData, plan
from rationale.training.settings import BatchSize, DPOSettings, Training
from rationale.training.sft import SFTModule, sft_data
from rationale.training.step import StepModule

QUIET = partial(pl.Trainer, accelerator="cpu", devices=1, enable_progress_bar=False)
csv = partial(loggers, project="test", group="test", name="test", mode="disabled", folder="")


def beside(callback: pl.Callback) -> partial:
    """A trainer in which `callback` acts too."""
    return partial(
        lambda callbacks, **settings: pl.Trainer(callbacks=[callback, *callbacks], **settings), **QUIET.keywords
    )


def fit(module: StepModule, data: PlannedData, out: Path, trainer: Any = QUIET, **settings: Any) -> dict:
    """The stages' own `fit`, with the module's optimizer; the plan is `data`'s."""
    given = {"optim": module.optim, "batch": BatchSize(1), "save_every": 1, "trainer": trainer, **settings}
    return fitting.fit(module, data, Training(**given), csv, out)


def weights(vlm: VLM) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in vlm.model.state_dict().items()}


def furthest(a: dict, b: dict) -> float:
    return max((a[name] - b[name]).abs().max().item() for name in a)


LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.3}


def sft(vlm, examples, out, micro=8, accumulate=1, epochs=1, optim=None, seed=0):
    optim = optim or Optim(lr=1e-2)
    order = partial(plan, micro_batch=micro, accumulate=accumulate, epochs=epochs, seed=seed)
    data = sft_data(Encoder(vlm.processor), examples, order)
    fit(SFTModule(vlm, optim, data.plan.num_steps), data, out, save_every=1)
    return weights(vlm)


def preference(vlm, examples, reference, stored=None, objective=None, micro=4, layout="rows", group_by="pair"):
    """A module and its data: four pairs, each two responses to one prompt, three epochs."""
    pairs = [(a, replace(a, response=b.response)) for a, b in zip(examples[:4], examples[4:], strict=True)]
    order = partial(plan, micro_batch=micro, accumulate=4 // micro, epochs=3, seed=0)
    logps = [tuple(map(stored, pair)) for pair in pairs] if stored else None
    data = dpo_data(Encoder(vlm.processor, layout=layout), pairs, order, logps, group_by)
    return DPOModule(vlm, objective or Objective(), reference, Optim(lr=1e-3), data.plan.num_steps), data


WHOLE = Truncation(words=None, tokens=None, eos="uncut")


def train_dpo(
    questions_dir,
    pairs_dir,
    model,
    out,
    reference="frozen",
    logps=None,
    truncate=WHOLE,
    datasets=None,
    trainer=QUIET,
    layout="tree",
    lora=None,
):
    out.mkdir()
    counts = dpo.run(
        questions=str(questions_dir),
        pairs=str(pairs_dir),
        model=model,
        settings=DPOSettings(
            objective=Objective(),
            reference=reference,
            reference_logps=logps,
            lora=lora,
            truncate=truncate,
            datasets=datasets,
            optim={"lr": 1e-3},
            batch={"micro_batch_size": 4},
            epochs=2,
            trainer=trainer,
            save_every=1,
            layout=layout,
            group_by="pair",
        ),
        logger=csv,
        seed=0,
        out=out,
    )
    return load(str(out / "model")).model.state_dict(), counts
