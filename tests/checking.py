"""The page of stage check, as a test asks for it."""

from __future__ import annotations

from functools import partial

import pytorch_lightning as pl

from rationale.models.local import Local
from rationale.models.response import Truncation
from rationale.planning.table import Hardware
from rationale.tools import check
from rationale.training.dpo import Objective
from rationale.training.optim import Optim

HARDWARE = Hardware("test", 1, 16e9, 2e9, 1e11, 0.3, 1e10, 1e-3)


def page(capsys, model, questions=None, generator=Local, frozen_parts=("vision_tower",)):
    trainer = partial(pl.Trainer, accelerator="cpu", devices=1, precision="32-true")
    check.run(
        model=model, questions=questions, trainer=trainer, precision="32-true", objective=Objective(),
        optim=Optim(1e-4), frozen_parts=list(frozen_parts), truncate=Truncation(words=90, tokens=None, eos="uncut"),
        max_new_tokens=4, generator=generator, hardware=HARDWARE,
    )  # fmt: skip
    return capsys.readouterr().out
