"""The page of stage check, as a test asks for it."""

from __future__ import annotations

from functools import partial

import pytorch_lightning as pl

from rationale.models.local import Local
from rationale.models.response import Truncation
from rationale.objectives.dpo import Objective
from rationale.planning.table import Hardware
from rationale.tools import check
from rationale.training.settings import DPOSettings

HARDWARE = Hardware("test", 1, 16e9, 2e9, 1e11, 0.3, 1e10, 1e-3)


def page(capsys, model, questions=None, generator=Local, frozen_parts=("vision_tower",)):
    trainer = partial(pl.Trainer, accelerator="cpu", devices=1, precision="32-true")
    check.run(
        model=model, questions=questions, max_new_tokens=4, generator=generator, hardware=HARDWARE,
        settings=DPOSettings(
            objective=Objective(), reference="frozen", truncate=Truncation(words=90, tokens=None, eos="uncut"),
            optim={"lr": 1e-4}, batch={"micro_batch_size": 1}, save_every=1, trainer=trainer, group_by="pair",
            frozen_parts=list(frozen_parts),
        ),
    )  # fmt: skip
    return capsys.readouterr().out
