"""One training run from a planned order to a saved model, resumable from its last checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar

from rationale.artifacts import main_process
from rationale.models.vlm import VLM
from rationale.training.datamodule import PlannedData
from rationale.training.loggers import close
from rationale.training.optim import Optim
from rationale.training.strategy import Weights


class RandomState(Callback):
    """Carries torch's generator through a checkpoint, so that dropout after a resume is what it would have been."""

    def state_dict(self) -> dict[str, Any]:
        return {"torch": torch.get_rng_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        torch.set_rng_state(state["torch"])


class StopOnNonFinite(Callback):
    """A NaN or infinite loss stops the run at its step rather than spoiling the weights."""

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        loss = outputs["loss"]
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"loss is {loss.item()} at step {trainer.global_step}; lower the learning rate or look at the batch"
            )


def fit(
    vlm: VLM,
    module: pl.LightningModule,
    data: PlannedData,
    trainer: Callable[..., pl.Trainer],
    logger: Callable[[Path], list],
    optim: Optim,
    out: Path,
    save_every: int,
    stop_after: int | None = None,
) -> dict:
    """Train to the end of the plan in `out` and save a plain transformers folder as `model/`; a run cut off goes on
    from its last checkpoint there.

    `trainer` is a partial of pytorch_lightning.Trainer, `logger` makes the loggers for a folder. Returns counts.
    `stop_after` ends at a step of the same schedule, which stays that of the whole plan.
    """
    state = out / "state"
    last = state / "last.ckpt"
    checkpoint = ModelCheckpoint(
        dirpath=state, filename="{step}", every_n_train_steps=save_every, save_last=True, save_top_k=1,
        save_on_train_epoch_end=False,
    )  # fmt: skip
    weights = Weights()
    callbacks = [RandomState(), StopOnNonFinite(), checkpoint, weights]
    if getattr(trainer, "keywords", {}).get("enable_progress_bar", True):
        callbacks.append(TQDMProgressBar(refresh_rate=20))
    run = trainer(
        max_epochs=1, max_steps=stop_after or -1, gradient_clip_val=optim.clip, callbacks=callbacks,
        logger=logger(out) if main_process() else False, default_root_dir=str(out), num_sanity_val_steps=0,
        use_distributed_sampler=False, enable_model_summary=False, log_every_n_steps=10,
    )  # fmt: skip
    run.accumulate_grad_batches = data.accumulate(run.world_size)
    run.fit(module, datamodule=data, ckpt_path=str(last) if last.exists() else None, weights_only=False)
    if main_process():
        close(run.loggers, out)
    steps = stop_after or data.plan.num_steps
    if run.global_step != steps:
        raise RuntimeError(f"trained {run.global_step} of {steps} steps; run the same command again to go on")
    if main_process():
        vlm.save(out / "model", weights.found)
        shutil.rmtree(state)
    return {
        "steps": run.global_step,
        "parameters": sum(p.numel() for p in module.policy.parameters()),
        "trainable": sum(p.numel() for p in module.policy.parameters() if p.requires_grad),
    }
