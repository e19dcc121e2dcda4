"""One process of several that train the tiny model; started by torchrun from test_sharded.py.

sharded.py SETTINGS.json        model, questions, strategy, layout, out
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch

from rationale.data.batch import Example
from rationale.data.encode import Encoder
from rationale.models import prefix
from rationale.models.vlm import load
from rationale.prompts import prompt_text
from rationale.schema import Question, read_jsonl
from rationale.training.datamodule import plan
from rationale.training.dpo_module import DPOModule, Objective, dpo_data
from rationale.training.optim import Optim
from rationale.training.strategy import CPUDeepSpeedStrategy


class Losses(pl.Callback):
    """What was logged at the end of every step."""

    def __init__(self) -> None:
        self.found: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if len(self.found) < trainer.global_step:
            self.found.append({k: float(v) for k, v in trainer.callback_metrics.items()})


def train(model: str, questions: str, strategy: str, layout: str, processes: int) -> list[dict[str, float]]:
    """Three epochs of four pairs, two micro-batches a step, each of one question's pairs."""
    torch.manual_seed(0)
    vlm = load(model)
    asked = [q for q in read_jsonl(Path(questions) / "questions.jsonl", Question) if q.split == "train"][:8]
    examples = [
        Example(q.question_id, Path(questions) / q.image, prompt_text(q, "cot"), "so it is " * (9 * i + 1) + q.answer)
        for i, q in enumerate(asked)
    ]
    pairs = [(a, replace(a, response=b.response)) for a, b in zip(examples[:4], examples[4:], strict=True)]
    order = partial(plan, micro_batch=1, accumulate=2, epochs=3, seed=0)
    data = dpo_data(Encoder(vlm.processor, layout=layout), pairs, order)
    losses = Losses()
    zero = int(strategy[-1]) if strategy.startswith("zero") else 0
    trainer = pl.Trainer(
        accelerator="cpu", devices=processes, max_epochs=1, gradient_clip_val=1.0, callbacks=[losses], logger=False,
        strategy=CPUDeepSpeedStrategy(stage=zero) if zero else strategy, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.accumulate_grad_batches = data.accumulate(trainer.world_size)
    trainer.fit(DPOModule(vlm, Objective(), "frozen", Optim(lr=1e-3), data.plan.num_steps), datamodule=data)
    return losses.found if trainer.is_global_zero else []


if __name__ == "__main__":
    settings = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    prefix.TILE_ELEMENTS = 4096  # of ten tokens, so that the processes have different numbers of tiles
    out = settings.pop("out")
    if found := train(**settings):
        Path(out).write_text(json.dumps(found))
