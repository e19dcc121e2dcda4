"""What a training keeps while it runs: states that a cut run goes on from, and the best weights so far."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from rationale.artifacts import UserError
from rationale.models.device import rng_states, set_rng_states
from rationale.models.vlm import VLM
from rationale.stopping import DeferredSignals
from rationale.training.strategy import whole_weights


class ResumeCheckpoints(Callback):
    """Every `every` steps the state of the run as `folder/step=N.ckpt`, of which the newest `keep` stay.

    A state has its name once it is whole in every process: a run that is cut while it writes one goes on from the one
    before. It holds the random numbers of every process too, so that dropout is what it would have been. Where any
    process was told to stop, a state is written at the end of its step, and all stop.
    """

    signals: DeferredSignals  # while the training runs

    def __init__(self, folder: Path, every: int, keep: int):
        self.folder, self.every, self.keep, self.ended = folder, every, keep, 0

    def newest(self) -> Path | None:
        """The state to go on from."""
        return max(self.folder.glob("step=*.ckpt"), default=None)

    def clear(self) -> None:
        """Remove what a cut run left half written, here and beside."""
        for path in (*self.folder.glob("*.partial"), *self.folder.parent.glob("*.partial")):
            _remove(path)

    def check(self, processes: int) -> None:
        """UserError where the newest state is of another number of processes and lies in pieces, one for each."""
        newest = self.newest()
        pieces = len(list(newest.rglob("*_optim_states.pt"))) if newest is not None else 0
        if pieces not in (0, processes):
            raise UserError(
                f"{newest}: a state of DeepSpeed's in {pieces} pieces, which {processes} processes cannot go on from; "
                f"start {pieces} (trainer.devices, trainer.num_nodes), or remove {self.folder} to begin anew"
            )

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Lightning counts the batches of one process: of another number of processes, each has done more or fewer."""
        then = len(checkpoint["callbacks"][self.state_key]["random"])
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            done = counts["completed"] * then // trainer.world_size
            counts.update({name: done + count - counts["completed"] for name, count in counts.items()})

    def state_dict(self) -> dict[str, Any]:
        own = rng_states()
        if not torch.distributed.is_initialized():
            return {"random": [own]}
        every: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(every, own)
        return {"random": every}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        set_rng_states(state["random"][rank % len(state["random"])])  # of a run in fewer processes: some share theirs

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.ended = trainer.global_step
        self.signals.listen()

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        """By now the step before is logged, and what was due after it is measured."""
        # Lightning, going on from a state, counts a step more where a batch may end one. Its states are older by that.
        loop, counted = trainer.fit_loop.epoch_loop, int(trainer.accumulate_grad_batches == 1)
        loop._batches_that_stepped -= counted
        try:
            self._after_step(trainer, module)
        finally:
            loop._batches_that_stepped += counted

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._after_step(trainer, module)

    def _after_step(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        step = trainer.global_step
        if step == self.ended:  # in the middle of a step
            return
        self.ended = step
        number = self.signals.number
        if trainer.world_size > 1:
            number = int(trainer.strategy.reduce(torch.tensor(number, device=module.device), reduce_op="max"))
        if number or not step % self.every:
            self._save(trainer, step)
        if number:
            self.signals.stop(number)

    def _save(self, trainer: pl.Trainer, step: int) -> None:
        for logger in trainer.loggers:  # what a run that goes on from here does not log again
            logger.save()
        partial = self.folder / f"step={step:08d}.partial"
        trainer.save_checkpoint(partial, weights_only=False)  # returns when every process has written its part
        if trainer.is_global_zero:
            os.replace(partial, partial.with_suffix(".ckpt"))
            for old in sorted(self.folder.glob("step=*.ckpt"))[: -self.keep]:
                _remove(old)


class Best(Callback):
    """The weights of the lowest loss on held-out rows so far, in `folder` as those of the end are beside it."""

    def __init__(self, vlm: VLM, folder: Path):
        self.vlm, self.folder, self.loss, self.step = vlm, folder, float("inf"), 0

    def state_dict(self) -> dict[str, Any]:
        return {"loss": self.loss, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loss, self.step = state["loss"], state["step"]

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        loss = trainer.callback_metrics["val/loss"].item()
        if loss >= self.loss:
            return
        self.loss, self.step = loss, trainer.global_step
        weights = whole_weights(trainer, module)
        if trainer.is_global_zero:
            partial = self.folder.with_suffix(".partial")
            _remove(partial)
            self.vlm.save(partial / "model", weights)
            _remove(self.folder)
            os.replace(partial, self.folder)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
