"""One process of several that train the tiny model; started from test_sharded.py.

sharded.py SETTINGS.json        the arguments of `train`
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import rationale  # noqa: F401, before what imports torchvision  # isort: skip
import pytorch_lightning as pl
import torch

from rationale.models import prefix
from rationale.models.batch import Example
from rationale.models.encode import Encoder
from rationale.models.vlm import load
from rationale.objectives.dpo import Objective
from rationale.objectives.grpo import GRPOObjective
from rationale.prompts import prompt_text
from rationale.schema import Question, read_jsonl
from rationale.scoring.judge import Verdict
from rationale.training import grpo as grpo_module
from rationale.training.dpo import DPOModule, dpo_data
from rationale.training.fit import fit
from rationale.training.grpo import GRPOModule, grpo_data
from rationale.training.loggers import loggers
from rationale.training.optim import Optim
from rationale.training.plan import plan
from rationale.training.settings import BatchSize, GRPOSettings, Rollout, Training
from rationale.training.sft import SFTModule, sft_data
from rationale.training.strategy import zero


class Held(pl.Callback):
    """Every step's log in the first process; and in each process, at the end, the numbers that it holds.

    `kill` (step, seconds, signal) ends the process so long after that step: SIGKILL, as a power cut would, or SIGTERM,
    which the last process alone is sent.
    """

    def __init__(self, out: Path, kill: tuple[int, float, str] | None) -> None:
        self.out, self.kill, self.steps = out, kill, {}

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.callback_metrics:  # not in the middle of a step
            self.steps.setdefault(trainer.global_step, {k: float(v) for k, v in trainer.callback_metrics.items()})
        if self.kill and trainer.global_step >= self.kill[0]:  # a state may be later than the last kill
            if self.kill[2] == "SIGKILL" or trainer.global_rank == trainer.world_size - 1:
                threading.Timer(self.kill[1], os.kill, (os.getpid(), getattr(signal, self.kill[2]))).start()
            self.kill = None

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        held = {}
        for part in ("policy", "frozen"):
            parameters = list(getattr(module, part, None).parameters()) if getattr(module, part, None) else []
            held[part] = sum(getattr(p, "ds_tensor", p).numel() for p in parameters)
        states = trainer.optimizers[0].state.values()
        held["optimizer"] = sum(v.numel() for state in states for v in state.values() if torch.is_tensor(v))
        (self.out / f"held_{trainer.global_rank}.json").write_text(json.dumps(held), encoding="utf-8")
        if trainer.is_global_zero:
            (self.out / "steps.json").write_text(json.dumps(self.steps), encoding="utf-8")


def train(
    model: str,
    questions: str,
    objective: str,
    strategy: str,
    layout: str,
    processes: int,
    out: Path,
    epochs: int = 3,
    held: int = 0,
    kill: tuple[int, float, str] | None = None,
    accelerator: str = "cpu",
    lr: float = 1e-3,
) -> None:
    """Epochs of four pairs, or of eight examples, two micro-batches a step, a state every second step; or as many steps
    of four questions.

    `held` of them once more as held-out rows.
    """
    torch.manual_seed(0)
    vlm = load(model)
    asked = [q for q in read_jsonl(Path(questions) / "questions.jsonl", Question) if q.split == "train"][:8]
    examples = [
        Example(q.question_id, q.files(Path(questions)), prompt_text(q, "cot"), "so it is " * (9 * i + 1) + q.answer)
        for i, q in enumerate(asked)
    ]
    encoder, optim = Encoder(vlm.processor, layout=layout), Optim(lr=lr)
    if objective == "dpo":
        pairs = [(a, replace(a, response=b.response)) for a, b in zip(examples[:4], examples[4:], strict=True)]
        data = dpo_data(encoder, pairs, partial(plan, micro_batch=1, accumulate=2, epochs=epochs, seed=0),
                        held_out=pairs[:held])  # fmt: skip
        module = DPOModule(vlm, Objective(), "frozen", optim, data.plan.num_steps)
    elif objective == "grpo":  # each batch of samples in three steps, so that a state lies between two of them
        # A random model is never right; here a text of an even number of letters is.
        grpo_module.judge = lambda question, text, style: Verdict(text, float(len(text) % 2 == 0))
        surrogate = GRPOObjective(divide_by_std=True, clip_low=0.2, clip_high=0.28, normalisation="token", kl=0.1)
        settings = GRPOSettings(
            objective=surrogate, rollout=Rollout("cot", num_samples=3, max_new_tokens=12), optim=optim,
            updates=3, batch=BatchSize(1, 4), save_every=2, trainer=pl.Trainer,
        )  # fmt: skip
        rows = [(q, replace(e, response="")) for q, e in zip(asked[:4], examples[:4], strict=True)]
        order = partial(plan, micro_batch=1, accumulate=4, epochs=2 * epochs // settings.updates, seed=0)
        data = grpo_data(len(rows), order, settings.updates)
        module = GRPOModule(vlm, encoder, rows, settings, data.plan.num_steps, seed=0)
        data.recipe = module.recipe
    else:
        data = sft_data(encoder, examples, partial(plan, micro_batch=2, accumulate=2, epochs=epochs, seed=0),
                        held_out=examples[:held])  # fmt: skip
        module = SFTModule(vlm, optim, data.plan.num_steps)
    stage = int(strategy[-1]) if strategy.startswith("zero") else 0
    trainer = partial(
        pl.Trainer, accelerator=accelerator, devices=processes,
        strategy=zero(stage, accelerator) if stage else strategy,
    )  # fmt: skip
    seen = Held(out, kill)

    def with_log(callbacks: list, **settings: object) -> pl.Trainer:
        return trainer(callbacks=[*callbacks, seen], **settings)

    logger = partial(loggers, project="test", group="test", name="test", mode="disabled", folder="")
    settings = Training(optim=optim, batch=BatchSize(1), save_every=2, trainer=with_log)
    fit(module, data, settings, logger, out)


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    prefix.TILE_ELEMENTS = 4096  # of ten tokens, so that the processes have different numbers of tiles
    train(**{**settings, "out": Path(settings["out"])})


if __name__ == "__main__":
    main()
