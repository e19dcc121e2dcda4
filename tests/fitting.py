"""Trainings as tests make them: on the CPU, quiet, with a CSV alone, and settings that a test need not name."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from rationale.models.vlm import VLM
from rationale.training import fit as fitting
from rationale.training.loggers import loggers
from rationale.training.plan import PlannedData
from rationale.training.settings import BatchSize, Training
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
